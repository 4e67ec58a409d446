//! Tests of the header checks: by hand, by property, and against the `safetensors` crate.

use super::*;
use proptest::prelude::*;

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

fn parse(bytes: &[u8]) -> Result<SafetensorsFile> {
    SafetensorsFile::parse("a.safetensors".into(), Bytes::from_cow(bytes.to_vec().into()))
}

#[test]
fn a_good_file_opens() {
    let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]},"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"empty":{"dtype":"F32","shape":[0,3],"data_offsets":[12,12]},"scalar":{"dtype":"U8","shape":[],"data_offsets":[12,13]}}  "#;
    let f = parse(&file(header, &[7; 13])).unwrap();
    assert_eq!(f.names().collect::<Vec<_>>(), ["a", "b", "empty", "scalar"]);
    let b = f.tensor("b").unwrap();
    assert_eq!((b.dtype(), b.shape(), b.bytes()), (Dtype::BF16, &[2, 1][..], &[7; 4][..]));
    assert!(f.tensor("empty").unwrap().bytes().is_empty());
    let wrong = f.tensor("a").unwrap_err();
    assert!(wrong.is_unsupported() && wrong.to_string().contains("`a` has dtype I64"));
    assert_eq!(f.byte_len("a"), 8);
    assert!(f.tensor("zzz").unwrap_err().to_string().contains("a.safetensors: no tensor `zzz`"));
}

#[test]
fn each_lie_is_named() {
    let one = |entry: &str, data: usize| file(&format!(r#"{{"w":{entry}}}"#), &vec![0; data]);
    let two = |a: &str, b: &str| file(&format!(r#"{{"v":{a},"w":{b}}}"#), &[0; 12]);
    let f32_at = |a: usize, b: usize| {
        format!(r#"{{"dtype":"F32","shape":[{}],"data_offsets":[{a},{b}]}}"#, (b - a) / 4)
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "truncated: 0 bytes"),
        (vec![1, 2, 3], "truncated: 3 bytes"),
        (u64::MAX.to_le_bytes().to_vec(), "limit"),
        (100_000_001u64.to_le_bytes().to_vec(), "limit"),
        (40u64.to_le_bytes().to_vec(), "header claims 40 bytes"),
        (file("{", &[]), "not a JSON object"),
        (file("[]", &[]), "not a JSON object"),
        (file("{\"\u{fffd}\":1}", &[]), "tensor `\u{fffd}`: bad entry"),
        (one("null", 0), "tensor `w`: bad entry"),
        (one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#, 4), "tensor `w`: bad entry"),
        (one(r#"{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}"#, 4), "tensor `w`: bad entry"),
        (one(r#"{"dtype":"F32","shape":[1]}"#, 4), "data_offsets"),
        (
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#, 4),
            "hold 4 bytes, but shape [2] of F32 needs 8",
        ),
        (one(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,2]}"#, 2), "needs 2"),
        (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 4), "outside the file"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, 4), "backwards"),
        (
            one(r#"{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,4]}"#, 4),
            "larger than memory",
        ),
        (
            one(r#"{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,4]}"#, 4),
            "larger than memory",
        ),
        (one(&f32_at(0, 4), 6), "2 bytes follow the last tensor"),
        (two(&f32_at(0, 8), &f32_at(4, 12)), "tensor `w` starts at byte 4 and overlaps v"),
        (two(&f32_at(0, 4), &f32_at(8, 12)), "leaves a hole"),
        (file(&format!(r#"{{"w":{0},"w":{0}}}"#, f32_at(0, 4)), &[0; 4]), "`w` is listed twice"),
        (file(r#"{"__metadata__":{"a":1}}"#, &[]), "__metadata__"),
    ];
    for (bytes, expected) in cases {
        let e = parse(&bytes).unwrap_err();
        assert!(e.is_format(), "{e}");
        assert!(e.to_string().starts_with("a.safetensors: "), "{e}");
        assert!(e.to_string().contains(expected), "{e}: expected {expected}");
    }
}

#[test]
fn mapped_bytes_outlive_the_file_handle_and_may_be_released() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    std::fs::write(&path, file(r#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#, &[1, 2, 3]))
        .unwrap();
    let w = SafetensorsFile::parse("m".into(), Bytes::map(&path).unwrap()).unwrap().tensor("w").unwrap();
    assert_eq!(w.bytes(), [1, 2, 3]);
    w.bytes.release();
    assert_eq!(w.bytes(), [1, 2, 3]);
    std::fs::write(&path, []).ok();
    let empty = dir.path().join("empty.safetensors");
    std::fs::write(&empty, []).unwrap();
    assert!(Bytes::map(&empty).unwrap().is_empty());
    assert!(Bytes::map(dir.path()).is_err());
}

/// Names, dtypes and shapes of a file to write.
fn tensors() -> impl Strategy<Value = Vec<(String, usize, Vec<usize>)>> {
    let name = "[a-z._\\PC]{0,12}".prop_filter("reserved", |n| n != "__metadata__");
    let one = (name, 0usize..6, prop::collection::vec(0usize..5, 0..4));
    prop::collection::vec(one, 0..6).prop_map(|mut all| {
        all.sort();
        all.dedup_by(|a, b| a.0 == b.0);
        all
    })
}

const DTYPES: [safetensors::Dtype; 6] = [
    safetensors::Dtype::F32,
    safetensors::Dtype::F16,
    safetensors::Dtype::BF16,
    safetensors::Dtype::I32,
    safetensors::Dtype::U32,
    safetensors::Dtype::U8,
];

fn written(all: &[(String, usize, Vec<usize>)]) -> Vec<u8> {
    let sizes: Vec<_> =
        all.iter().map(|(_, d, s)| s.iter().product::<usize>() * DTYPES[*d].bitsize() / 8).collect();
    let data: Vec<u8> = (0..sizes.iter().sum()).map(|i: usize| i as u8).collect();
    let mut at = 0;
    let views = all.iter().zip(&sizes).map(|((n, d, s), &len)| {
        at += len;
        let view = safetensors::tensor::TensorView::new(DTYPES[*d], s.clone(), &data[at - len..at]);
        (n.clone(), view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

proptest! {
    #[test]
    fn what_the_crate_writes_reads_back(all in tensors()) {
        let bytes = written(&all);
        let ours = parse(&bytes).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(ours.names().count(), all.len());
        for (name, _, shape) in &all {
            let (a, b) = (ours.tensor(name).unwrap(), theirs.tensor(name).unwrap());
            prop_assert_eq!((a.shape(), a.bytes()), (&shape[..], b.data()));
        }
    }

    #[test]
    fn damage_never_panics_and_is_judged_as_the_crate_judges(
        all in tensors(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = written(&all);
        for (at, byte) in hits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // Ours may refuse more (duplicate names) and accept more (an unknown dtype, which is then listed only).
        let ours = parse(&bytes);
        if let (Ok(f), Err(e)) = (&ours, safetensors::SafeTensors::deserialize(&bytes)) {
            let unknown = f.tensors.values().any(|t| bits_of(&t.dtype).is_none());
            prop_assert!(unknown, "only the crate refuses: {e}");
        }
    }

    #[test]
    fn noise_never_panics(header in ".{0,200}", data in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = parse(&file(&header, &data));
        let _ = parse(&data);
    }
}
