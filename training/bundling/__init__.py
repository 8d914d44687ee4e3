"""From a trained network to the vehicle's bundle: checks, golden sample, model card; and a bundle as a model again."""
