"""What the gate says, in several forms: lines for a terminal, Markdown for a pull request, JUnit XML for a CI server."""

from __future__ import annotations

from xml.etree import ElementTree

from xbench.tables.gate import EXIT, Report


def to_lines(report: Report) -> list[str]:
    """What the terminal shows: the verdict, then what led to it."""
    counts = ", ".join(f"{len(found)} {verdict}" for verdict in EXIT if (found := report.by(verdict)))
    lines = [f"gate: {report.verdict} ({counts or 'nothing to judge'})"]
    for verdict in ("regression", "cannot judge"):
        lines += [f"{verdict}: {judgement.sentence()}" for judgement in report.by(verdict)]
    return lines + [f"cannot judge: {problem}" for problem in report.problems] + report.notes


def to_markdown(report: Report, most: int = 20) -> str:
    """A summary for a pull request: the verdict, and a table of what did not pass, largest loss in margins first."""
    head = {"pass": "Explanations did not get worse", "regression": "Explanations got worse", "cannot judge": "Cannot judge"}
    counts = " · ".join(f"{len(report.by(verdict))} {verdict}" for verdict in EXIT)
    out = [f"### {head[report.verdict]}", "", counts, ""]
    shown = [*report.by("regression"), *report.by("cannot judge"), *report.by("pass")][:most]
    if shown:
        out.append("| method | metric | before | now | change (95 %) | margin | items | verdict |")
        out.append("|---|---|---:|---:|---:|---:|---:|---|")
    for j in shown:
        change = f"{j.change.mean:+.3f} [{j.change.low:+.3f}, {j.change.high:+.3f}]"
        why = j.too_few.replace("|", "\\|") if j.needed is None else f"about {j.needed} items would settle it"
        verdict = f"{j.verdict}: {why}" if why and j.verdict == "cannot judge" else j.verdict
        what = f"`{j.pair.method}` | {j.pair.column.label}<br>{j.pair.column.dataset}"
        out.append(f"| {what} | {j.before.mean:.3f} | {j.now.mean:.3f} | {change} | {j.margin:.3f} | {j.change.n} | {verdict} |")
    if len(report.judgements) > most:
        out.append(f"\nand {len(report.judgements) - most} more that lost less")
    out += [f"- {line}" for line in [*report.problems, *report.notes]]
    out += ["", "Positive changes are better. A regression is certain for all figures at once, and exceeds its margin."]
    return "\n".join(out) + "\n"


def to_junit(report: Report) -> str:
    """JUnit XML: a case for each figure; a regression is a failure, what cannot be judged an error."""
    counts = {"failures": len(report.by("regression")), "errors": len(report.by("cannot judge")) + len(report.problems)}
    total = len(report.judgements) + len(report.problems)
    numbers = {name: str(number) for name, number in counts.items()}
    suite = ElementTree.Element("testsuite", {"name": "xbench gate", "tests": str(total), **numbers})
    for j in report.judgements:
        where = f"{j.pair.models[1]} / {j.pair.column.dataset}"
        case = ElementTree.SubElement(suite, "testcase", classname=where, name=f"{j.pair.method}: {j.pair.column.metric}")
        if j.verdict != "pass":
            kind = "failure" if j.verdict == "regression" else "error"
            ElementTree.SubElement(case, kind, message=j.sentence(), type=j.verdict)
    for problem in report.problems:
        case = ElementTree.SubElement(suite, "testcase", classname="xbench gate", name=problem)
        ElementTree.SubElement(case, "error", message=problem, type="cannot judge")
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
