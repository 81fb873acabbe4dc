"""Every rule on saliency maps, and the perturbed images that methods and metrics ask for."""
