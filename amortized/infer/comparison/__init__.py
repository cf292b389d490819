"""What a comparison of programs shows beside their evidences."""
