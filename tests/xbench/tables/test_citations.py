from pathlib import Path

from xbench.plugins.declarations import KINDS
from xbench.plugins.registry import registry
from xbench.store import manifests
from xbench.tables import citations


def test_every_plugin_that_ships_cites_a_known_paper():
    known = citations.bibliography()
    assert len(known) > 10
    for kind in KINDS:
        for id in registry.ids(kind):
            plugin = registry.get(kind, id)
            if plugin.info.cite and plugin.module.startswith("xbench."):
                assert plugin.info.cite in known, id


def test_a_run_cites_each_paper_once_and_ones_own_text_as_it_is():
    manifest = {
        "methods": {"a": {"cite": "selvaraju2017gradcam"}, "b": {"cite": ""}, "c": {"cite": "our report, 2026"}},
        "columns": {"k": {"cite": "petsiuk2018rise"}},
        "datasets": {"d": {"cite": "rauber2017foolbox"}},
        "models": {"m": {"cite": "selvaraju2017gradcam"}},
    }
    column = {"dataset": "", "metric": "", "direction": "higher", "chance": "", "protocol": ""}
    manifest["columns"]["k"] |= column
    for about in manifest["methods"].values():
        about["control"] = False
    found = citations.of_run(manifests.parse({"format": 1, "suite": ""} | manifest, Path("manifest.json")))
    assert len(found) == 4
    assert found[0].startswith("@inproceedings{selvaraju2017gradcam,")
    assert found[1] == "% our report, 2026"
