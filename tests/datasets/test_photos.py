from xbench.plugins.registry import registry


def test_twenty_photographs_with_labels():
    photos = registry.bind("dataset", "photos")()
    entries = photos.entries()
    assert len(entries) == 20
    assert entries[0].id == "imagenet_00_243"
    assert entries[0].labels == (243,)
    assert photos.classes.names[243] == "bull mastiff"
    assert photos.classes.synsets[0] == "n01440764"
    for entry in entries:
        sample = photos.load(entry.id)
        assert sample.image.shape in [(3, 512, 512), (3, 683, 1024)]
        assert sample.image.float().std() > 10
    assert len(photos.items("prediction")) == 20
    assert len(photos.revision) == 20


def test_foolbox_itself_is_not_imported():
    import subprocess
    import sys

    code = (
        "import sys\nfrom xbench.plugins.registry import registry\n"
        "registry.bind('dataset', 'photos')()\nassert 'foolbox' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
