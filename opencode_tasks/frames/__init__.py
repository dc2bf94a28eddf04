"""Frames of prompts as they come in and go out; the only package that imports pandas."""
