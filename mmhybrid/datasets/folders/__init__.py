"""One's own images in the usual formats: recognised, read, checked, and written for training.

.. code-block:: python

    data = read_folder("FOLDER", task)  # "detection", "instances", "segmentation", "classification"
    prepared = write_dataset(data, "WORK_DIR")  # annotation files and masks in WORK_DIR/data
    print(describe(data))  # format, splits, classes with counts, sizes, findings
    prepared = read_prepared("WORK_DIR")  # in a later run: test, predict

``read_folder`` writes nothing. It raises ``TaskError`` where the labels do not serve the task
(``offers`` says which they serve: boxes alone do not make masks) and ``UserError`` where nothing
can be read. All else that is wrong is in ``data.findings``: what is left out or mended is a
warning, and an error once it concerns more than a tenth of the images or objects.

``write_dataset`` keeps a split that it drew before in the same work folder and adds to
``data.findings`` what has changed since: ask for the findings and ``describe`` after it. It may be
called again at any time, and by several processes at once. How mmdet, mmseg and mmpretrain are
told of the files is in ``PreparedData``. Images are never copied, except those that lie inside of
LabelMe files. Names in the files begin below ``image_root``, so that images may move; annotation
files are absolute.

A file a format, each with one function ``read_...(listing, notes)``, which returns None where it
does not recognise the folder. They are written by hand on json, yaml, ElementTree, Pillow and
pycocotools, after the libraries were tried on what ``tests/make_data_folders.py`` makes:

* COCO, YOLO, VOC, LabelMe: supervision 0.31.2 read the 7 well-formed folders that were tried, once
  told where images and labels are, and stopped at the first fault of all 4 faulty ones (byte order
  mark, one cut file, entities). It keeps Roboflow's category of the project as a class, and makes
  every outline a mask of the image's size: 77 MB for 32 images of COCO.
* The same and masks, tables, folders of classes: datumaro 1.13.12 recognised and read 9 of 24
  well-formed folders and none of 7 faulty ones. It asks for opencv-python-headless, which
  overwrites opencv-python, and for pandas and pyarrow.
* Splits: scikit-learn stratifies by one label an image; objects are several.
"""

from mmhybrid.datasets.folders.reading import describe, read_folder
from mmhybrid.datasets.folders.records import (
    FolderData,
    ImageRecord,
    Instance,
    TaskError,
)
from mmhybrid.datasets.folders.writing import read_prepared, write_dataset
from mmhybrid.datasets.prepared_data import PreparedData

__all__ = [
    "FolderData",
    "ImageRecord",
    "Instance",
    "PreparedData",
    "TaskError",
    "describe",
    "read_folder",
    "read_prepared",
    "write_dataset",
]
