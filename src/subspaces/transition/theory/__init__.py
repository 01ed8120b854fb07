"""When does a random subspace reach a loss? Wells, widths, Gordon's theorem, spectra and predicted thresholds."""

# the geometry of a sub-level set: widths, and what they imply in each direction
# curvature and its spectrum, matrix-free
from subspaces.curvature.operators import CURVATURES, Curvature, GaussNewtonProduct, Hessian
from subspaces.curvature.spectrum import Spectrum, lanczos, spectral_density, vector_measure
from subspaces.transition.theory.comparison import (
    ComparisonOptions,
    ComparisonPoint,
    comparison_curve,
    comparison_point,
    start_loss,
    threshold_on_curve,
)
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
    "ComparisonOptions",
    "ComparisonPoint",
    "Cone",
    "Curvature",
    "GaussNewtonProduct",
    "Hessian",
    "MonteCarlo",
    "QuadraticWell",
    "Spectrum",
    "StartPrediction",
    "ThresholdPrediction",
    "angular_dimension_bound",
    "comparison_curve",
    "comparison_point",
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
    "spectral_density",
    "spectral_threshold_bound",
    "start_loss",
    "sublevel_cone",
    "subspace_minimum",
    "threshold_from_gradient",
    "threshold_on_curve",
    "vector_measure",
]
