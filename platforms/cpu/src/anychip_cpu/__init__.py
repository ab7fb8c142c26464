"""The cpu platform of anychip."""
