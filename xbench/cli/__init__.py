"""The command line: one small file for each command, or for those that belong together. Options in, one call, text out.

main       the commands' names, and the console script
options    what several commands ask for
exits      exit codes, and what is said of an error
screen     the terminal, and what several commands show there
progress   what is shown while something runs

Nothing heavy is imported until a command needs it.
"""

from xbench.cli.main import app, cli

__all__ = ["app", "cli"]
