"""srpo: align FLUX-class diffusion models with human preference (Direct-Align and SRPO)."""
