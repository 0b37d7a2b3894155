"""Detectron2's own extensions, none of which is here."""
