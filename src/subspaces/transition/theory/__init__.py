"""When does a random subspace reach a loss? Wells, widths, Gordon's theorem, spectra and predicted thresholds."""

# the geometry of a sub-level set: widths, and what they imply in each direction
# curvature and its spectrum, matrix-free
from subspaces.curvature.operators import CURVATURES, Curvature, GaussNewtonProduct, Hessian
from subspaces.curvature.spectrum import Spectrum, lanczos, spectral_density, vector_measure
from subspaces.transition.theory.geometry import (
    Cone,
    MonteCarlo,
    angular_dimension_bound,
    convex_transition,
    expected_norm,
    gaussian_width,
    gaussian_width_bounds,
    gordon_necessary_dimension,
    gordon_success_bound,
    sublevel_cone,
)

# thresholds from a spectrum and a distance
from subspaces.transition.theory.prediction import (
    ThresholdPrediction,
    predict_threshold,
    predicted_threshold,
    spectral_threshold_bound,
    threshold_from_gradient,
)
from subspaces.transition.theory.proximal import ProximalOptions, ProximalPoint, proximal_path, threshold_on_path

# thresholds of a network from where its subspaces are laid
from subspaces.transition.theory.start import StartPrediction, predict_from_start

# quadratic wells: the exact truth
from subspaces.transition.theory.wells import (
    QuadraticWell,
    isotropic_success_probability,
    isotropic_threshold,
    power_law_spectrum,
    subspace_minimum,
)

__all__ = [
    "CURVATURES",
    "Cone",
    "Curvature",
    "GaussNewtonProduct",
    "Hessian",
    "MonteCarlo",
    "ProximalOptions",
    "ProximalPoint",
    "QuadraticWell",
    "Spectrum",
    "StartPrediction",
    "ThresholdPrediction",
    "angular_dimension_bound",
    "convex_transition",
    "expected_norm",
    "gaussian_width",
    "gaussian_width_bounds",
    "gordon_necessary_dimension",
    "gordon_success_bound",
    "isotropic_success_probability",
    "isotropic_threshold",
    "lanczos",
    "power_law_spectrum",
    "predict_from_start",
    "predict_threshold",
    "predicted_threshold",
    "proximal_path",
    "spectral_density",
    "spectral_threshold_bound",
    "sublevel_cone",
    "subspace_minimum",
    "threshold_from_gradient",
    "threshold_on_path",
    "vector_measure",
]
