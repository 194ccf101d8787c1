"""The pools of this fleet, one file each: copy them, change them."""
