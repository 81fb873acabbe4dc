"""Files as others write them: class folders, PASCAL VOC, COCO, masks; and the dataset that they make."""
