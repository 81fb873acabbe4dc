"""The sentences that a CLIP's classes are put into: one, a file of several, or the ensembles that CLIP was published with."""

from __future__ import annotations

from pathlib import Path

from xbench.plugin import XbenchError, fill

EXAMPLE = "a photo of a {}."
ENSEMBLES = ("openai_80", "openai_7")  # of CLIP's repository, as open_clip has them; the seven are the best of the eighty


def templates(spec: str, template: str) -> tuple[list[str], tuple[Path, ...]]:
    """The templates that a parameter names, and the file that they were read from.

    Raises:
        XbenchError: it is no sentence with ``{}``, no ensemble and no file of such sentences.
    """
    if "{}" in template:
        return [template], ()
    if template in ENSEMBLES:
        import open_clip

        known = open_clip.OPENAI_IMAGENET_TEMPLATES if template == "openai_80" else open_clip.SIMPLE_IMAGENET_TEMPLATES
        return [make("{}") for make in known], ()
    path = Path(template).expanduser()
    if not path.is_file():
        known = " or ".join(ENSEMBLES)
        raise XbenchError(f"model {spec}: template {template!r} has no {{}} and is no file; write it like {EXAMPLE!r}, or {known}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        fill(lines, ())
    except (OSError, ValueError, XbenchError) as error:
        raise XbenchError(f"cannot use the templates in {path}: {error}") from error
    return lines, (path,)
