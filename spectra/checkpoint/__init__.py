"""From a model folder to matrices: files, tensors, layouts, names, and the facts about model families."""
