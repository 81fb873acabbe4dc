"""Does a map stay where the image hardly changes, and move where the image moves?"""
