"""quantus's metrics that are not run, and why: wrong or crashing in 0.6.0, or asking networks anew where xbench shares passes."""

from __future__ import annotations

from torch import Tensor

from xbench.plugin import Truth, XbenchError, metric

from ._adapter import CITE

AGAIN = "it asks the network and the method again by itself, for each metric and method anew"
BATCH = "it compares the pictures of a batch with each other, so that no item has a value of its own"
NONE = "no metric here stands in for it"
CHANNELS = "on colour pictures it removes single channel values, not pixels"
TRAPZ = "np.trapz, which numpy 2.4 no longer has"

REFUSED = {
    "AvgSensitivity": f"{AGAIN}; use sensitivity_max",
    "BatchSufficiency": f"{BATCH}; {NONE}",
    "Completeness": f"it asks of floats that they are equal, so that exact attributions fail; {NONE}",
    "Consistency": f"{BATCH}; {NONE}",
    "Continuity": f"{AGAIN}; use ses",
    "EfficientMPRT": f"{AGAIN}; use mprt",
    "FaithfulnessCorrelation": f"{CHANNELS}, drawn from numpy's unseeded global state; use faithfulness_correlation",
    "FaithfulnessEstimate": f"{CHANNELS}; use faithfulness_correlation",
    "IROF": f"it raises on colour pictures, whose segments it takes for one channel, and on grey ones for {TRAPZ}; "
    "use region_perturbation",
    "Infidelity": "patches stay removed while the next ones are, its samples repeat each other, and patches that do not divide the "
    "picture raise; use infidelity",
    "InputInvariance": f"{AGAIN}, and rewrites its first layer; {NONE}",
    "LocalLipschitzEstimate": f"{AGAIN}; use sensitivity_max",
    "MPRT": f"{AGAIN}; use mprt",
    "MaxSensitivity": f"{AGAIN}; use sensitivity_max",
    "Monotonicity": f"{CHANNELS}, and is one yes or no for all of them; use faithfulness_correlation",
    "MonotonicityCorrelation": f"{CHANNELS}, by noise of numpy's unseeded global state; use faithfulness_correlation",
    "NonSensitivity": f"{CHANNELS}, and more than one in a step raises; {NONE}",
    "PixelFlipping": f"{CHANNELS}, and its area needs {TRAPZ}; use pixel_flipping",
    "PointingGame": "a hit is any tied maximum in the mask, so that a map which saturates hits, and nothing beside it does; "
    "use pointing_game",
    "ROAD": "it raises on colour pictures with a map for each, and scores the first batch only; use road",
    "RandomLogit": f"{AGAIN}, and its SSIM is of pixels strung in a line; use random_logit",
    "RegionPerturbation": f"its value is a curve, whose area needs {TRAPZ}; use region_perturbation",
    "RelativeInputStability": f"{AGAIN}; use relative_input_stability",
    "RelativeOutputStability": f"{AGAIN}; use relative_input_stability",
    "RelativeRepresentationStability": f"{AGAIN}; use relative_input_stability",
    "Selectivity": f"its value is a curve, whose area needs {TRAPZ}; use region_perturbation",
    "SensitivityN": "it correlates over the pictures of the first batch, step by step, so that no item has a value; "
    "use faithfulness_correlation",
    "SmoothMPRT": f"{AGAIN}; use mprt",
    "Sufficiency": f"{BATCH} (the metric called sufficiency here is another); {NONE}",
}


@metric("quantus/<ClassName>", kind="ground_truth", version="1", direction="higher", cite=CITE, refused=REFUSED)
def refused(maps: Tensor, truth: Truth, name: str) -> Tensor:
    """Metrics of the quantus library that are refused; asking for one says why and what to use. The others are listed by name.

    Raises:
        XbenchError: always, with the reason.
    """
    raise XbenchError(f"metric quantus/{name} is refused: {REFUSED[name]}")
