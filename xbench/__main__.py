"""``python -m xbench``: the same as the console script."""

from xbench.cli import cli

if __name__ == "__main__":
    cli()
