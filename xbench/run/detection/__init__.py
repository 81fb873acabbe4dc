"""Out-of-distribution detection from WordNet, as Concept Visualization puts CLIP's knowledge of it to the test (docs/ood.md).

``experiment`` reads what is asked, ``scores`` scores pictures, ``figures`` makes AUROCs of scores; ``boards`` brings these together
for a model and a dataset, and ``session`` runs all of them and writes what came of it.
"""
