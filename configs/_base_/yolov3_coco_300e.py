# The mobile YOLOv3 at 320x320 on COCO: 96 channels in neck and head, 300 epochs of batch 192.
_base_ = "mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py"

find_unused_parameters = False
