"""Agreement between annotators: F1, kappa, Krippendorff's alpha."""
