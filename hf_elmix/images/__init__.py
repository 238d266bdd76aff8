"""Classification of images: the paper's studies of CIFAR-100, CINIC-10 and ImageNet, for any dataset of images."""
