"""Sources, processors, transforms and collation: from files on a disk to batches of tensors."""
