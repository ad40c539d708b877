package disk

// DigestAlgorithm names the tree digest (see Sum) where digests of several
// algorithms meet.
const DigestAlgorithm = "tree"
