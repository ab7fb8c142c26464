"""Logical KV pages: who holds which page, what each page's content is called, and which to forget first."""
