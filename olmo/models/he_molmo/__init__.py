"""HeMolmo: Molmo that keeps only the picture tokens that matter."""
