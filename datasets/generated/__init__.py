"""Images that are made: scenes and birds, drawn pixel by pixel, and mosaics of another dataset's images."""
