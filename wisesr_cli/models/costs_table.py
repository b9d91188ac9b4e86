"""What each backbone costs: FLOPs of one position by resolution, (stride, added pixels).

Made by `python tests/support/backbone_costs.py` of the Keras models, which tests compare it with. See `costs.py`.
"""

from __future__ import annotations

from wisesr_cli.models.costs import BackboneSizes

# fmt: off
BACKBONE_SIZES: dict[str, BackboneSizes] = {
    "compact": BackboneSizes(
        parameters=1_165_792, trainable_parameters=1_163_936, channels=256, resolution=(8, 7), flops_elsewhere=0,
        flops_per_position={(1, 0): 1_728, (2, 1): 110_592, (4, 3): 442_368, (8, 7): 1_769_472},
    ),
    "compact_small": BackboneSizes(
        parameters=15_136, trainable_parameters=14_864, channels=64, resolution=(8, 7), flops_elsewhere=0,
        flops_per_position={(4, 3): 2_304, (8, 7): 26_880},
    ),
    "MobileNet": BackboneSizes(
        parameters=3_228_864, trainable_parameters=3_206_976, channels=1_024, resolution=(32, 1), flops_elsewhere=0,
        flops_per_position={(2, 1): 6_400, (4, 1): 52_608, (8, 1): 203_520, (16, 1): 2_934_272, (32, 1): 3_173_376},
    ),
    "MobileNetV2": BackboneSizes(
        parameters=2_257_984, trainable_parameters=2_223_872, channels=1_280, resolution=(32, 31), flops_elsewhere=0,
        flops_per_position={(2, 1): 6_400, (4, 3): 29_664, (8, 7): 80_160, (16, 15): 1_047_168, (32, 31): 3_216_128},
    ),
    "MobileNetV3Small": BackboneSizes(
        parameters=939_120, trainable_parameters=927_008, channels=576, resolution=(32, 31), flops_elsewhere=917_504,
        flops_per_position={(2, 1): 864, (4, 3): 3_120, (8, 7): 19_392, (16, 15): 203_736, (32, 31): 681_696},
    ),
    "MobileNetV3Large": BackboneSizes(
        parameters=2_996_352, trainable_parameters=2_971_952, channels=960, resolution=(32, 31),
            flops_elsewhere=3_014_400,
        flops_per_position={(2, 1): 3_712, (4, 3): 15_888, (8, 7): 79_272, (16, 15): 892_496, (32, 31): 1_883_232},
    ),
    "NASNetMobile": BackboneSizes(
        parameters=4_269_716, trainable_parameters=4_232_978, channels=1_056, resolution=(32, 29), flops_elsewhere=0,
        flops_per_position={(2, -1): 2_432, (4, 1): 19_684, (8, 5): 466_664, (16, 13): 1_958_000, (32, 29): 5_991_392},
    ),
    "NASNetLarge": BackboneSizes(
        parameters=84_916_818, trainable_parameters=84_720_150, channels=4_032, resolution=(32, 29), flops_elsewhere=0,
        flops_per_position={(2, -1): 13_248, (4, 1): 134_604, (8, 5): 8_606_976, (16, 13): 36_801_408, (32, 29):
            123_728_640},
    ),
    "DenseNet121": BackboneSizes(
        parameters=7_037_504, trainable_parameters=6_953_856, channels=1_024, resolution=(32, 3), flops_elsewhere=0,
        flops_per_position={(2, 1): 18_816, (4, 3): 729_664, (8, 3): 2_081_280, (16, 3): 6_652_928, (32, 3): 4_261_888},
    ),
    "DenseNet169": BackboneSizes(
        parameters=12_642_880, trainable_parameters=12_484_480, channels=1_664, resolution=(32, 3), flops_elsewhere=0,
        flops_per_position={(2, 1): 18_816, (4, 3): 729_664, (8, 3): 2_081_280, (16, 3): 10_159_104, (32, 3):
            11_667_968},
    ),
    "DenseNet201": BackboneSizes(
        parameters=18_321_984, trainable_parameters=18_092_928, channels=1_920, resolution=(32, 3), flops_elsewhere=0,
        flops_per_position={(2, 1): 18_816, (4, 3): 729_664, (8, 3): 2_081_280, (16, 3): 19_137_536, (32, 3):
            13_766_144},
    ),
    "EfficientNetB0": BackboneSizes(
        parameters=4_049_571, trainable_parameters=4_007_548, channels=1_280, resolution=(32, 31),
            flops_elsewhere=1_254_400,
        flops_per_position={(2, 1): 6_432, (4, 3): 29_904, (8, 7): 88_704, (16, 15): 1_398_384, (32, 31): 5_143_520},
    ),
    "EfficientNetB1": BackboneSizes(
        parameters=6_575_239, trainable_parameters=6_513_184, channels=1_280, resolution=(32, 31),
            flops_elsewhere=2_216_960,
        flops_per_position={(2, 1): 7_248, (4, 3): 46_464, (8, 7): 139_344, (16, 15): 1_896_432, (32, 31): 8_581_088},
    ),
    "EfficientNetB2": BackboneSizes(
        parameters=7_768_569, trainable_parameters=7_700_994, channels=1_408, resolution=(32, 31),
            flops_elsewhere=2_627_456,
        flops_per_position={(2, 1): 7_248, (4, 3): 46_464, (8, 7): 188_784, (16, 15): 2_210_160, (32, 31): 10_170_704},
    ),
    "EfficientNetB3": BackboneSizes(
        parameters=10_783_535, trainable_parameters=10_696_232, channels=1_536, resolution=(32, 31),
            flops_elsewhere=3_719_296,
        flops_per_position={(2, 1): 13_360, (4, 3): 80_688, (8, 7): 195_840, (16, 15): 3_449_952, (32, 31): 13_737_840},
    ),
    "EfficientNetB4": BackboneSizes(
        parameters=17_673_823, trainable_parameters=17_548_616, channels=1_792, resolution=(32, 31),
            flops_elsewhere=6_234_816,
        flops_per_position={(2, 1): 14_328, (4, 3): 108_912, (8, 7): 346_128, (16, 15): 5_674_608, (32, 31):
            22_437_824},
    ),
    "EfficientNetB5": BackboneSizes(
        parameters=28_513_527, trainable_parameters=28_340_784, channels=2_048, resolution=(32, 31),
            flops_elsewhere=10_303_104,
        flops_per_position={(2, 1): 15_936, (4, 3): 205_296, (8, 7): 563_664, (16, 15): 8_213_952, (32, 31):
            36_992_192},
    ),
    "EfficientNetB6": BackboneSizes(
        parameters=40_960_143, trainable_parameters=40_735_704, channels=2_304, resolution=(32, 31),
            flops_elsewhere=14_962_368,
        flops_per_position={(2, 1): 25_272, (4, 3): 253_008, (8, 7): 841_248, (16, 15): 11_998_080, (32, 31):
            52_887_840},
    ),
    "EfficientNetB7": BackboneSizes(
        parameters=64_097_687, trainable_parameters=63_786_960, channels=2_560, resolution=(32, 31),
            flops_elsewhere=23_799_808,
        flops_per_position={(2, 1): 29_024, (4, 3): 414_336, (8, 7): 1_206_048, (16, 15): 18_699_744, (32, 31):
            82_727_360},
    ),
    "EfficientNetV2B0": BackboneSizes(
        parameters=5_919_312, trainable_parameters=5_858_704, channels=1_280, resolution=(32, 31),
            flops_elsewhere=2_062_848,
        flops_per_position={(2, 1): 10_944, (4, 3): 104_448, (8, 7): 288_768, (16, 15): 2_006_400, (32, 31): 7_108_704},
    ),
    "EfficientNetV2B1": BackboneSizes(
        parameters=6_931_124, trainable_parameters=6_860_052, channels=1_280, resolution=(32, 31),
            flops_elsewhere=2_396_160,
        flops_per_position={(2, 1): 15_552, (4, 3): 186_368, (8, 7): 473_088, (16, 15): 2_474_976, (32, 31): 8_015_328},
    ),
    "EfficientNetV2B2": BackboneSizes(
        parameters=8_769_374, trainable_parameters=8_687_086, channels=1_408, resolution=(32, 31),
            flops_elsewhere=3_061_888,
        flops_per_position={(2, 1): 15_552, (4, 3): 186_368, (8, 7): 614_912, (16, 15): 2_854_336, (32, 31):
            10_457_360},
    ),
    "EfficientNetV2B3": BackboneSizes(
        parameters=12_930_622, trainable_parameters=12_821_406, channels=1_536, resolution=(32, 31),
            flops_elsewhere=4_617_728,
        flops_per_position={(2, 1): 18_288, (4, 3): 279_552, (8, 7): 659_968, (16, 15): 4_215_776, (32, 31):
            15_607_296},
    ),
    "EfficientNetV2S": BackboneSizes(
        parameters=20_331_360, trainable_parameters=20_177_488, channels=1_280, resolution=(32, 31),
            flops_elsewhere=7_329_792,
        flops_per_position={(2, 1): 22_032, (4, 3): 603_648, (8, 7): 1_206_272, (16, 15): 7_255_040, (32, 31):
            23_593_792},
    ),
    "EfficientNetV2M": BackboneSizes(
        parameters=53_150_388, trainable_parameters=52_858_356, channels=1_280, resolution=(32, 31),
            flops_elsewhere=19_667_968,
        flops_per_position={(2, 1): 32_400, (4, 3): 787_968, (8, 7): 2_295_808, (16, 15): 13_599_456, (32, 31):
            68_678_432},
    ),
    "EfficientNetV2L": BackboneSizes(
        parameters=117_746_848, trainable_parameters=117_234_272, channels=1_280, resolution=(32, 31),
            flops_elsewhere=44_169_216,
        flops_per_position={(2, 1): 75_456, (4, 3): 2_056_192, (8, 7): 4_841_472, (16, 15): 29_312_640, (32, 31):
            152_863_936},
    ),
    "ConvNeXtTiny": BackboneSizes(
        parameters=27_820_128, trainable_parameters=27_820_128, channels=768, resolution=(32, 0), flops_elsewhere=0,
        flops_per_position={(4, 0): 479_808, (8, 0): 1_973_376, (16, 0): 22_162_176, (32, 0): 30_896_640},
    ),
    "ConvNeXtSmall": BackboneSizes(
        parameters=49_454_688, trainable_parameters=49_454_688, channels=768, resolution=(32, 0), flops_elsewhere=0,
        flops_per_position={(4, 0): 479_808, (8, 0): 1_973_376, (16, 0): 65_306_880, (32, 0): 30_896_640},
    ),
    "ConvNeXtBase": BackboneSizes(
        parameters=87_566_464, trainable_parameters=87_566_464, channels=1_024, resolution=(32, 0), flops_elsewhere=0,
        flops_per_position={(4, 0): 836_352, (8, 0): 3_483_136, (16, 0): 115_649_536, (32, 0): 54_827_008},
    ),
    "ConvNeXtLarge": BackboneSizes(
        parameters=196_230_336, trainable_parameters=196_230_336, channels=1_536, resolution=(32, 0), flops_elsewhere=0,
        flops_per_position={(4, 0): 1_844_352, (8, 0): 7_780_608, (16, 0): 259_195_392, (32, 0): 123_134_976},
    ),
    "ConvNeXtXLarge": BackboneSizes(
        parameters=348_147_968, trainable_parameters=348_147_968, channels=2_048, resolution=(32, 0), flops_elsewhere=0,
        flops_per_position={(4, 0): 3_245_568, (8, 0): 13_782_016, (16, 0): 459_888_640, (32, 0): 218_705_920},
    ),
    "ResNet50": BackboneSizes(
        parameters=23_587_712, trainable_parameters=23_534_592, channels=2_048, resolution=(32, 31), flops_elsewhere=0,
        flops_per_position={(2, 1): 18_816, (4, 3): 426_560, (8, 7): 2_424_832, (16, 15): 14_155_776, (32, 31):
            29_884_416},
    ),
    "ResNet101": BackboneSizes(
        parameters=42_658_176, trainable_parameters=42_552_832, channels=2_048, resolution=(32, 31), flops_elsewhere=0,
        flops_per_position={(2, 1): 18_816, (4, 3): 426_560, (8, 7): 2_424_832, (16, 15): 52_035_584, (32, 31):
            29_884_416},
    ),
    "ResNet152": BackboneSizes(
        parameters=58_370_944, trainable_parameters=58_219_520, channels=2_048, resolution=(32, 31), flops_elsewhere=0,
        flops_per_position={(2, 1): 18_816, (4, 3): 426_560, (8, 7): 4_653_056, (16, 15): 81_002_496, (32, 31):
            29_884_416},
    ),
    "ResNet50V2": BackboneSizes(
        parameters=23_564_800, trainable_parameters=23_519_360, channels=2_048, resolution=(32, 31), flops_elsewhere=0,
        flops_per_position={(2, 1): 18_816, (4, 3): 320_064, (8, 7): 2_105_600, (16, 15): 12_878_336, (32, 31):
            31_589_376},
    ),
    "ResNet101V2": BackboneSizes(
        parameters=42_626_560, trainable_parameters=42_528_896, channels=2_048, resolution=(32, 31), flops_elsewhere=0,
        flops_per_position={(2, 1): 18_816, (4, 3): 320_064, (8, 7): 2_105_600, (16, 15): 50_758_144, (32, 31):
            31_589_376},
    ),
    "ResNet152V2": BackboneSizes(
        parameters=58_331_648, trainable_parameters=58_187_904, channels=2_048, resolution=(32, 31), flops_elsewhere=0,
        flops_per_position={(2, 1): 18_816, (4, 3): 320_064, (8, 7): 4_333_824, (16, 15): 79_725_056, (32, 31):
            31_589_376},
    ),
    "InceptionV3": BackboneSizes(
        parameters=21_802_784, trainable_parameters=21_768_352, channels=2_048, resolution=(32, -43), flops_elsewhere=0,
        flops_per_position={(2, -5): 55_296, (2, -1): 1_728, (4, -15): 276_480, (4, -7): 10_816, (8, -19): 1_787_040,
            (16, -27): 17_423_904, (32, -43): 24_023_040},
    ),
    "InceptionResNetV2": BackboneSizes(
        parameters=54_336_736, trainable_parameters=54_276_192, channels=1_536, resolution=(32, -43), flops_elsewhere=0,
        flops_per_position={(2, -5): 55_296, (2, -1): 1_728, (4, -15): 276_480, (4, -7): 10_816, (8, -19): 4_328_832,
            (16, -27): 51_956_544, (32, -43): 51_787_328},
    ),
    "Xception": BackboneSizes(
        parameters=20_861_480, trainable_parameters=20_806_952, channels=2_048, resolution=(32, 25), flops_elsewhere=0,
        flops_per_position={(2, -5): 89_472, (2, -1): 1_728, (4, -3): 221_056, (8, 1): 1_518_256, (16, 9): 28_710_136,
            (32, 25): 10_983_424},
    ),
    "VGG16": BackboneSizes(
        parameters=14_714_688, trainable_parameters=14_714_688, channels=512, resolution=(32, 0), flops_elsewhere=0,
        flops_per_position={(1, 0): 77_184, (2, 0): 442_624, (4, 0): 2_949_632, (8, 0): 11_797_504, (16, 0): 14_157_824,
            (32, 0): 2_048},
    ),
    "VGG19": BackboneSizes(
        parameters=20_024_384, trainable_parameters=20_024_384, channels=512, resolution=(32, 0), flops_elsewhere=0,
        flops_per_position={(1, 0): 77_184, (2, 0): 442_624, (4, 0): 4_129_280, (8, 0): 16_516_096, (16, 0): 18_876_416,
            (32, 0): 2_048},
    ),
}
