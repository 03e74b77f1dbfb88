"""Tables and pictures from run folders; reads files and nothing else."""
