"""docs/bad_input.md: every line of its tables is tried by a test, which is named here."""

# ruff: noqa: E501

import re
from pathlib import Path

TESTS = Path(__file__).parent
# The first cell of each row, and the tests that try it.
TRIED = {
    "missing image": [
        "test_check_data.py::test_image_is_found_and_training_survives_it[missing-image]"
    ],
    "empty file": ["test_check_data.py::test_image_is_found_and_training_survives_it[empty-file]"],
    "unreadable image": [
        "test_check_data.py::test_image_is_found_and_training_survives_it[unreadable-image]"
    ],
    "truncated image": [
        "test_check_data.py::test_image_is_found_and_training_survives_it[truncated-image]"
    ],
    "CMYK image": ["test_check_data.py::test_image_is_found_and_training_survives_it[cmyk-image]"],
    "16-bit image": [
        "test_check_data.py::test_image_is_found_and_training_survives_it[16-bit-image]"
    ],
    "palette image": [
        "test_check_data.py::test_image_is_found_and_training_survives_it[palette-image]"
    ],
    "image with transparency": [
        "test_check_data.py::test_image_is_found_and_training_survives_it[transparent-image]"
    ],
    "grey image": ["test_check_data.py::test_image_is_found_and_training_survives_it[grey-image]"],
    "image turned by EXIF": [
        "test_check_data.py::test_image_is_found_and_training_survives_it[exif-turned]"
    ],
    "image smaller than 32 pixels": [
        "test_check_data.py::test_image_is_found_and_training_survives_it[small-image]"
    ],
    "image of another size than its annotations say": [
        "test_check_data.py::test_whole_image_is_not_found"
    ],
    "one unreadable image in a run with workers": [
        "test_check_data.py::test_run_trains_on_what_is_left"
    ],
    "no image can be read": ["test_check_data.py::test_run_stops_where_nothing_can_be_read"],
    "a transform or a data set that fails for its own reasons": [
        "test_check_data.py::test_a_transform_that_fails_is_no_unreadable_image"
    ],
    "a loading transform of one's own (its class, or one that it derives from, is called `Load...`)": [
        "test_check_data.py::test_a_loader_of_ones_own_reads"
    ],
    "data set without an image": ["test_check_data.py::test_broken_annotation_file_is_found"],
    "unreadable image while evaluating": [
        "test_check_data.py::test_evaluation_names_what_it_cannot_read"
    ],
    "images of a format that only a loader of one's own reads": [
        "test_check_data.py::test_the_loader_of_the_pipeline_decides_what_can_be_read"
    ],
    "a mistake in a loader (`KeyError`, `TypeError`, `AttributeError`, ...)": [
        "test_check_data.py::test_a_mistake_in_a_loader_is_no_unreadable_image"
    ],
    "one image of a folder that the model fails at, such as one of 4000x8 pixels": [
        "test_predict.py::test_one_image_that_fails_loses_none_of_the_others"
    ],
    "an array for `mmhybrid.predict` that is not (H, W, 3) of uint8": [
        "test_predict.py::test_arrays_that_are_no_image_are_refused"
    ],
    "an image that cannot be drawn, such as one of more than 65535 pixels a side, which no JPEG has": [
        "test_predict.py::test_an_image_that_cannot_be_drawn_keeps_its_result"
    ],
    "`--tile` for a classifier, `--tile-check` without `--tile`": [
        "test_tiling.py::test_tiles_that_cannot_be_are_told_before_images_are_read"
    ],
    "`tools/predict.py` stopped in the middle": [
        "test_predict.py::test_what_was_done_is_kept_where_a_run_is_stopped"
    ],
    "empty box": ["test_check_data.py::test_box_is_found_and_training_survives_it[empty-box]"],
    "box outside the image": [
        "test_check_data.py::test_box_is_found_and_training_survives_it[box-outside]"
    ],
    "box that reaches beyond the image": [
        "test_check_data.py::test_box_is_found_and_training_survives_it[box-cut]"
    ],
    "crowd box": ["test_check_data.py::test_box_is_found_and_training_survives_it[crowd-box]"],
    "box of an unknown category": [
        "test_check_data.py::test_box_is_found_and_training_survives_it[unknown-class]"
    ],
    "box of an unknown image": [
        "test_check_data.py::test_box_is_found_and_training_survives_it[unknown-image]"
    ],
    "box that is no four numbers": [
        "test_check_data.py::test_box_is_found_and_training_survives_it[bad-box]"
    ],
    "object without a mask": [
        "test_check_data.py::test_box_is_found_and_training_survives_it[no-outline]"
    ],
    "classes of the config that the annotation file lacks": [
        "test_check_data.py::test_names_that_do_not_match_are_found_with_what_is_near"
    ],
    "categories of the file that the config lacks": [
        "test_check_data.py::test_names_that_do_not_match_are_found_with_what_is_near"
    ],
    "image without a box": [
        "test_check_data.py::test_images_without_boxes_and_named_twice_are_found"
    ],
    "image named twice": [
        "test_check_data.py::test_images_without_boxes_and_named_twice_are_found"
    ],
    "annotation file that is empty, cut or in another format": [
        "test_check_data.py::test_broken_annotation_file_is_found"
    ],
    "annotations without `area`": [
        "test_check_data.py::test_annotations_are_mended_in_a_copy[without area]"
    ],
    "annotations without `iscrowd`": [
        "test_check_data.py::test_annotations_are_mended_in_a_copy[without iscrowd]"
    ],
    "annotations without an `id`, or with one that is no number": [
        "test_check_data.py::test_annotations_are_mended_in_a_copy[without id]",
        "test_check_data.py::test_annotations_are_mended_in_a_copy[id that is no number]",
    ],
    "images without `width` or `height`": [
        "test_check_data.py::test_annotations_are_mended_in_a_copy[without a height]",
        "test_check_data.py::test_annotations_are_mended_in_a_copy[width of null]",
    ],
    "annotations without a category or an image": [
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[bad-entry]"
    ],
    "images without `file_name`, categories without a name": [
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[bad-file]",
        "test_check_data.py::test_broken_annotation_file_is_found",
    ],
    "numbers written as text": [
        "test_check_data.py::test_annotations_are_mended_in_a_copy[numbers as text]"
    ],
    "annotations that share an `id`, or whose `id` is 0, which COCO's metric takes for none": [
        "test_check_data.py::test_annotations_are_mended_in_a_copy[the same id]",
        "test_check_data.py::test_annotations_are_mended_in_a_copy[id of 0]",
    ],
    "byte-order mark before the JSON": [
        "test_check_data.py::test_byte_order_mark_is_told_and_left_out"
    ],
    "categories in another order than the classes of the config, so that the cat is called dog": [
        "test_check_data.py::test_annotations_are_mended_in_a_copy[order]"
    ],
    "classes that the file lacks, so that the labels after them move": [
        "test_check_data.py::test_classes_that_the_file_lacks_do_not_shift_the_others"
    ],
    "two categories of the same name": [
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[class-named-twice]"
    ],
    "outlines without their inner list, or as pairs of numbers": [
        "test_check_data.py::test_annotations_are_mended_in_a_copy[flat outline]",
        "test_check_data.py::test_annotations_are_mended_in_a_copy[pairs]",
        "test_check_data.py::test_annotations_are_mended_in_a_copy[list of pairs]",
    ],
    "outlines of two points, of an odd number of values, of none, or run lengths of another size": [
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[bad-outline]",
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[bad-outline of seven numbers]",
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[bad-outline of none]",
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[bad-outline of another size]",
    ],
    "objects without a mask for a model that learns masks": [
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[no-outline]"
    ],
    "no image with an object of the classes, as where the classes of COCO are left in the config": [
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[no-images]"
    ],
    "no object to learn from, since all are too small, ignored or outside": [
        "test_check_data.py::test_what_cannot_be_mended_stops_a_run_before_it_starts[no-objects]"
    ],
    "objects marked `ignore`, of an area of 0, images below `filter_cfg.min_size`": [
        "test_check_data.py::test_what_is_dropped_is_counted"
    ],
    "missing mask": ["test_check_data.py::test_mask_is_found[missing-mask]"],
    "mask of another size than its image": ["test_check_data.py::test_mask_is_found[mask-size]"],
    "mask in colour": ["test_check_data.py::test_mask_is_found[colour-mask]"],
    "label outside the classes": [
        "test_check_data.py::test_mask_is_found[unknown-value]",
        "test_check_data.py::test_labels_outside_the_classes_are_ignored_in_training",
    ],
    "class label of a classifier out of range": [
        "test_check_data.py::test_labels_of_a_classifier_are_found"
    ],
    "class without an image or an object": [
        "test_check_data.py::test_labels_of_a_classifier_are_found",
        "test_check_data.py::test_what_would_waste_a_run_stops_it[class-without-image]",
    ],
    "half of the images without a label": [
        "test_check_data.py::test_what_would_waste_a_run_stops_it[mostly-unlabelled]"
    ],
    "images of the evaluation that are trained on, under other names too": [
        "test_check_data.py::test_what_would_waste_a_run_stops_it[duplicate-across-splits]"
    ],
    "a few missing images of many": [
        "test_check_data.py::test_a_few_missing_images_stop_no_training"
    ],
    "mask of an image that EXIF turns": [
        "test_check_data.py::test_mask_is_compared_with_the_image_as_it_is_read"
    ],
    "masks of two classes with the values 0 and 255": [
        "test_check_data.py::test_masks_of_0_and_255_never_show_the_second_class"
    ],
    "labels above 255, of which the last eight bits are read": [
        "test_check_data.py::test_labels_beyond_eight_bits_are_found"
    ],
    "panoptic masks whose segments are not those of the annotations": [
        "test_check_data.py::test_panoptic_data_are_checked"
    ],
    "data sets whose samples or labels the check does not know": [
        "test_check_data.py::test_data_sets_that_are_not_known_are_named"
    ],
    "folder of a class that validation lacks, which shifts the labels after it": [
        "test_check_data.py::test_folder_that_validation_lacks_shifts_the_labels"
    ],
    "names of classes in another order than their folders": [
        "test_check_data.py::test_names_in_another_order_than_the_folders_are_found"
    ],
    "list of images with a comma or a tab before the label": [
        "test_check_data.py::test_list_of_labels_that_cannot_be_read_is_told_in_a_sentence"
    ],
    "data set without an image, or one that cannot be built for another reason": [
        "test_check_data.py::test_data_sets_are_built_before_training_starts"
    ],
    "infinite output of a module": ["test_non_finite.py::test_run_stops_and_says_where"],
    "gradient that is not a number": ["test_non_finite.py::test_run_stops_and_says_where"],
    "the same with policy=skip": ["test_non_finite.py::test_updates_are_left_out_and_counted"],
    "twenty in a row": ["test_non_finite.py::test_endless_trouble_ends_the_run"],
    "images that are not numbers": [
        "test_non_finite.py::test_images_that_are_not_numbers_are_told"
    ],
    "weights that were not finite before": [
        "test_non_finite.py::test_weights_that_were_wrong_before_are_told"
    ],
    "infinite loss without a gradient": [
        "test_non_finite.py::test_infinite_loss_without_a_gradient_changes_nothing"
    ],
    "unknown policy": ["test_non_finite.py::test_unknown_policy_is_told"],
    "unknown arch": ["test_config_errors.py::test_wrong_config[unknown arch]"],
    "unknown key of arch": ["test_config_errors.py::test_wrong_config[unknown key of arch]"],
    "setting of arch of another type or length, `image_size` that is no side, `norm_cfg=None`, even kernels": [
        "test_backbone_contract.py::test_bad_arguments_of_a_family_are_told"
    ],
    "unknown argument of the backbone": [
        "test_config_errors.py::test_wrong_config[unknown argument of the backbone]"
    ],
    "unknown argument of the neck": [
        "test_config_errors.py::test_wrong_config[unknown argument of the neck]"
    ],
    "unknown backbone": ["test_config_errors.py::test_wrong_config[unknown backbone]"],
    "unknown neck": ["test_config_errors.py::test_wrong_config[unknown neck]"],
    "unknown head": ["test_config_errors.py::test_wrong_config[unknown head]"],
    "channels of the neck": ["test_config_errors.py::test_wrong_config[channels of the neck]"],
    "number of maps for the neck": [
        "test_config_errors.py::test_wrong_config[number of maps for the neck]"
    ],
    "out_indices out of range": [
        "test_config_errors.py::test_wrong_config[out_indices out of range]"
    ],
    "frozen_stages out of range": [
        "test_config_errors.py::test_wrong_config[frozen_stages out of range]"
    ],
    "unknown norm": ["test_config_errors.py::test_wrong_config[unknown norm]"],
    "fewer classes in a head": [
        "test_config_errors.py::test_wrong_config[fewer classes in a head]"
    ],
    "unknown optimizer": ["test_config_errors.py::test_wrong_config[unknown optimizer]"],
    "unknown argument of the optimizer": [
        "test_config_errors.py::test_wrong_config[unknown argument of the optimizer]"
    ],
    "unknown transform": ["test_config_errors.py::test_wrong_config[unknown transform]"],
    "unknown argument of a transform": [
        "test_config_errors.py::test_wrong_config[unknown argument of a transform]"
    ],
    "channels, `in_index` or classes of a segmentation head": [
        "test_config_errors.py::test_segmentation_head_that_does_not_fit"
    ],
    "channels of the head or neck of a classifier": [
        "test_config_errors.py::test_head_of_a_classifier_that_does_not_fit"
    ],
    "`in_channels` of the backbone that are not those of `data_preprocessor.mean`": [
        "test_config_errors.py::test_wrong_config[channels of the images]",
        "test_config_errors.py::test_images_of_other_channels",
    ],
    "`model.pretrained` of a segmentor, as in stock configs, for a backbone without that argument": [
        "test_config_errors.py::test_weights_that_a_segmentor_would_hand_to_its_backbone"
    ],
    "FPN with `start_level=1` over all maps, in several processes": [
        "test_config_errors.py::test_maps_that_no_neck_takes"
    ],
    "image smaller than 32 pixels in the model": [
        "test_tool_errors.py::test_what_is_wrong_is_told[shape that is too small]"
    ],
    "checkpoint of another model": ["test_config_errors.py::test_checkpoint_of_another_model"],
    "config with a mistake in its Python": [
        "test_config_errors.py::test_config_that_cannot_be_read[no Python]"
    ],
    "base config that does not exist": [
        "test_config_errors.py::test_config_that_cannot_be_read[no base config]"
    ],
    "base config `mmhybrid::_base_/...` in a checkout that is not installed": [
        "test_config_errors.py::test_a_config_of_a_checkout_that_is_not_installed"
    ],
    "`--cfg-options` that do not fit": [
        "test_config_errors.py::test_config_that_cannot_be_read[option that does not fit]"
    ],
    "`--cfg-options` that replace a dictionary": [
        "test_config_errors.py::test_config_that_cannot_be_read[option in the place of a dictionary]"
    ],
    "`--cfg-options` that begin with `backbone.` where the model has one": [
        "test_config_errors.py::test_options_of_a_backbone_that_no_model_reads"
    ],
    "`--auto-scale-lr` without a base batch size": [
        "test_config_errors.py::test_missing_base_batch_size"
    ],
    "config file, or name of a config, that does not exist": [
        "test_command.py::test_a_config_of_the_package_is_named_without_its_folder",
        "test_tool_errors.py::test_what_is_wrong_is_told[missing config]",
    ],
    "wrong model for a tool that needs no data: `get_flops.py`, `print_groups.py`, `predict.py`, ...": [
        "test_tool_errors.py::test_what_is_wrong_is_told[wrong model, counted]"
    ],
    "`--device` that is not there": ["test_tool_errors.py::test_what_is_wrong_is_told"],
    "`tools/test.py --out FILE` of a segmentor, which writes a folder": [
        "test_tool_errors.py::test_what_is_wrong_is_told[predictions of a segmentor in a file]"
    ],
    "`tools/test.py` whose metrics could not be written": [
        "test_tools.py::test_what_cannot_be_written_is_told_before_the_run"
    ],
    "data set that is not there": ["test_tool_errors.py::test_what_is_wrong_is_told[missing data]"],
    "unknown setting of `--quick`": [
        "test_tool_errors.py::test_what_is_wrong_is_told[unknown quick setting]"
    ],
    'one class without a list, `classes=("person")`': [
        "test_config_errors.py::test_wrong_config[one class as a text]"
    ],
    "`classes` as the name of a file": ["test_config_errors.py::test_classes_from_a_file"],
    "file of classes with empty lines, blanks or a byte-order mark": [
        "test_config_errors.py::test_classes_from_a_file"
    ],
    "weights that were trained on as many other classes, or on the same in another order": [
        "test_config_errors.py::test_classes_of_the_checkpoint_are_compared"
    ],
    "`CLASSES` of older versions in `metainfo`": [
        "test_config_errors.py::test_wrong_config[classes under an old name]"
    ],
    "classes named for training alone, or in another order for validation": [
        "test_config_errors.py::test_wrong_config[classes of training alone]"
    ],
    "joined data sets whose labels mean different classes": [
        "test_config_errors.py::test_joined_data_sets_agree_in_their_labels"
    ],
    "more classes in a head of mmdet than in the data": [
        "test_config_errors.py::test_wrong_config[more classes in a head]"
    ],
    "a head inside of a head": ["test_config_errors.py::test_parts_at_any_depth_are_checked"],
    "unknown metric, hook, or argument of a data set or a schedule": [
        "test_config_errors.py::test_wrong_config[unknown metric]",
        "test_config_errors.py::test_wrong_config[unknown hook]",
        "test_config_errors.py::test_wrong_config[unknown argument of a data set]",
        "test_config_errors.py::test_wrong_config[unknown argument of a schedule]",
    ],
    "`train_cfg=None`, no optimizer, validation without a metric, a loader without a sampler": [
        "test_config_errors.py::test_wrong_config[no training loop]",
        "test_config_errors.py::test_wrong_config[no optimizer]",
        "test_config_errors.py::test_wrong_config[validation without a metric]",
        "test_config_errors.py::test_wrong_config[no sampler]",
    ],
    "`load_from`, or weights of a part, that do not exist": [
        "test_config_errors.py::test_wrong_config[checkpoint to start from]",
        "test_config_errors.py::test_wrong_config[weights of a part]",
    ],
    "config of mmdet 2, mmseg 0 or mmcls 0": [
        "test_config_errors.py::test_config_that_cannot_be_read[an older OpenMMLab's]"
    ],
    "`topk` that is larger than the number of classes": [
        "test_config_errors.py::test_classes_of_a_classifier"
    ],
    "metric that reads another annotation file than the data, as after `data_root` was changed": [
        "test_config_errors.py::test_metric_of_other_data"
    ],
    "package of a visualizer that is not installed": [
        "test_config_errors.py::test_missing_package_of_a_visualizer"
    ],
    "stock config that cannot run as it is": [
        "test_stock_configs.py::test_stock_config_that_cannot_run_is_refused_in_a_sentence"
    ],
    "class names of checkpoints of mmdet 2, mmseg 0 and early mmdet 3": [
        "test_predict.py::test_class_names_of_older_checkpoints"
    ],
    "checkpoint that does not exist": [
        "test_tool_errors.py::test_what_is_wrong_is_told[missing checkpoint]"
    ],
    "checkpoint that lacks a tensor of the backbone": [
        "test_whole_or_refused.py::test_a_missing_tensor_is_refused"
    ],
    "tensor of another shape": ["test_whole_or_refused.py::test_another_shape_is_refused"],
    "checkpoint of a deeper model, or of one with more in its blocks": [
        "test_whole_or_refused.py::test_another_depth_is_refused",
        "test_whole_or_refused.py::test_what_a_block_lacks_is_refused",
    ],
    "half of a neck or head": [
        "test_whole_or_refused.py::test_a_head_that_lacks_something_is_refused_and_the_backbone_can_be_had"
    ],
    "checkpoint of other classes": [
        "test_whole_or_refused.py::test_fine_tuning_on_other_classes_takes_all_but_the_class_layers"
    ],
    "weights of a backbone alone, or of other classes, for `tools/test.py`, `predict.py` or `publish.py`": [
        "test_hub.py::test_a_head_that_would_be_random_is_refused"
    ],
    "checkpoint with another neck": [
        "test_whole_or_refused.py::test_another_neck_stays_new_as_a_whole"
    ],
    "checkpoint without a config, and no CONFIG": [
        "test_self_describing.py::test_checkpoints_without_a_config"
    ],
    "checkpoint whose config asks for functions or modules of others": [
        "test_self_describing.py::test_code_in_the_config_is_refused"
    ],
    "checkpoint and config of other sizes": [
        "test_self_describing.py::test_sizes_that_differ_are_named"
    ],
    "checkpoint cut at any length, or with any byte changed": [
        "test_checkpoint_reading.py::test_cut_and_changed_files_are_refused_or_harmless"
    ],
    "newest checkpoint damaged on `--resume`": [
        "test_durable_checkpoints.py::test_damaged_checkpoint_is_passed_over"
    ],
    "all checkpoints damaged": [
        "test_durable_checkpoints.py::test_folder_of_damaged_checkpoints_is_told"
    ],
    "another batch size on `--resume`, within an epoch": [
        "test_durable_checkpoints.py::test_resuming_within_an_epoch_with_another_batch_size_begins_it_anew"
    ],
    "`--quick` in a folder whose `data` it has not drawn": [
        "test_sample_data.py::test_what_cannot_be_drawn_is_refused"
    ],
    "full disk": [
        "test_durable_checkpoints.py::test_training_survives_a_disk_that_is_full_for_a_while"
    ],
    "full disk at the end of a run": [
        "test_runs_and_folders.py::test_the_end_of_a_run_is_saved_elsewhere_where_its_folder_is_full"
    ],
    "`--out-dir` of `tools/predict.py` that is a file or cannot be written to": [
        "test_predict.py::test_an_output_folder_that_cannot_be"
    ],
    "folder without permission": [
        "test_durable_checkpoints.py::test_folder_without_permission_is_told"
    ],
    "file that would run a program": [
        "test_checkpoint_reading.py::test_hostile_object_is_refused_and_does_not_run"
    ],
    "archive instead of a checkpoint": ["test_checkpoint_reading.py::test_tar_is_refused"],
    "file that declares more than it has": [
        "test_checkpoint_reading.py::test_memory_stays_bounded"
    ],
    "download with another SHA-256 than in its address": [
        "test_config_errors.py::test_download_with_another_sha256"
    ],
    "the temporary folder is full too": [
        "test_durable_checkpoints.py::test_run_whose_end_cannot_be_saved_fails"
    ],
    "log that cannot be written, or a server for it that fails": [
        "test_runs_and_folders.py::test_training_goes_on_without_its_log"
    ],
    "work folder moved or removed during a run": [
        "test_runs_and_folders.py::test_training_goes_on_where_its_folder_is_gone"
    ],
    "second training in a work folder": [
        "test_runs_and_folders.py::test_two_trainings_in_one_folder"
    ],
    "`last_checkpoint` missing, no text, a folder, of a removed file": [
        "test_runs_and_folders.py::test_the_newest_is_told_by_its_iteration"
    ],
    "copied run folder": [
        "test_runs_and_folders.py::test_a_copied_folder_goes_on_from_its_own_files"
    ],
    "`--resume FILE` without optimizer or schedule, or of another model": [
        "test_runs_and_folders.py::test_what_cannot_go_on_exactly_is_told_before_it_starts"
    ],
    "`--resume FILE` of another run, or of a hostile one": [
        "test_hostile_files.py::test_resuming_removes_nothing_that_the_run_has_not_written"
    ],
    "small file that unfolds to something huge, or takes for ever": [
        "test_hostile_files.py::test_every_path_refuses_it_soon"
    ],
    "checkpoint whose config is a program, resumed from": [
        "test_hostile_files.py::test_resuming_runs_no_text_of_a_file"
    ],
    "checkpoint whose config is a program, in an inferencer without a config": [
        "test_hostile_files.py::test_an_inferencer_runs_no_text_of_a_file"
    ],
}


def test_every_line_is_tried_by_tests_that_exist() -> None:
    lines = (TESTS.parent / "docs" / "bad_input.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and set(line) - set("| -")]
    heads = [row.strip("| ").split(" | ")[0] for row in rows]
    assert [head for head in heads if head != "what is wrong"] == [*TRIED]
    for head, names in TRIED.items():
        for name in names:
            file, function, parameter = re.fullmatch(
                r"(test_\w+\.py)::(test_\w+)(?:\[([^\]]*)\])?", name
            ).groups()
            text = (TESTS / file).read_text()
            assert f"def {function}(" in text, head
            assert not parameter or f'"{parameter}"' in text, (head, parameter)
