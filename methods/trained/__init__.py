"""Methods with weights of their own, which `xbench train` makes; those that ship are in `weights/`."""
