// Sizes of a packed cache, whose rows are codes of all heads, then all scales, one for 64 values, two in a word.

// Scales of a head.
override GROUPS: u32 = 2u;
// Words of a key head and of a value head.
override KEY_HEAD: u32 = 16u;
override VALUE_HEAD: u32 = 16u;
