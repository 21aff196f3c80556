"""The operator: a DiffusionPipeline resource becomes the objects that run it."""
