"""Pictures of the same moment from where other cameras would stand, from images and what is known of depth."""
