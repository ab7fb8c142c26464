"""The platform `tpu` of anychip."""
