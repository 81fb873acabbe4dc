"""Class activation maps: of the channels of a feature layer, weighted."""
