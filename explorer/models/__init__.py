"""Everything that is known about diffusers classes: denoisers, pipelines, and the models of the catalogue."""
