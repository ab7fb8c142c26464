"""The cuda platform of anychip."""
