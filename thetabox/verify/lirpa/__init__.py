"""auto_LiRPA's CROWN, as a second opinion: its answers are no proofs."""
