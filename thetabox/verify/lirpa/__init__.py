"""auto_LiRPA's CROWN, as a second opinion: its bounds are no proofs."""
