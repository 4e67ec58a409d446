//! Which schemas are taken, and what becomes of them.

use super::*;
use crate::serve::grammar::tests::{Setup, assert_valid, takes};
use crate::serve::grammar::{Constraint, Grammars};
use std::time::{Duration, Instant};

fn refused(grammars: &Grammars, schema: &Value) -> String {
    match Constraint::json_schema(schema).and_then(|constraint| grammars.matcher(&constraint)) {
        Ok(_) => panic!("taken: {schema}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_with_its_place() {
    let grammars = Setup::new("tests/golden/tokenizer_qwen").grammars;
    let closed = |mut schema: Value| {
        schema["properties"] = json!({"a": {"type": "integer"}});
        schema["additionalProperties"] = json!(false);
        schema
    };
    let cases = [
        (json!({"properties": {"a": {"not": {}}}}), "#/properties/a/not"),
        (json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}), "#/uniqueItems"),
        (json!({"if": {}, "then": {}}), "#/if"),
        (json!({"typo": 1}), "#/typo"),
        (json!({"x-guidance": {"lenient": true}}), "#/x-guidance"),
        (json!({"nullable": true}), "#/nullable"),
        (json!({"type": "text"}), "#/type"),
        (json!({"minLength": -1}), "#/minLength"),
        (json!({"pattern": "a\\"}), "#/pattern"),
        (json!({"maxItems": 1_000_000_000}), "#/maxItems"),
        (json!({"const": 9_007_199_254_740_993_i64}), "#/const"),
        (json!({"$ref": "http://example.com/a"}), "#/$ref"),
        (json!({"$ref": "#/$defs/none"}), "#/$ref"),
        (json!({"items": [{}]}), "#/items"),
        (json!({"properties": {"a/b": {"anyOf": [true, 3]}}}), "#/properties/a~1b/anyOf/1"),
        (json!({"properties": {"d": {"type": "string", "format": "bogus"}}}), "#/properties/d"),
        (json!({"properties": {"d": {"type": "string", "pattern": "(?=a)b"}}}), "#/properties/d"),
        (
            json!({"items": {"type": "integer", "minimum": 3, "maximum": 2}, "minItems": 1, "type": "array"}),
            "#/items",
        ),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "#"),
        (
            json!({"items": closed(json!({"required": ["a", "gone"]}))}),
            "#/items/required: `gone` is not among",
        ),
        (
            json!({"type": ["null", "object"], "required": ["x"], "additionalProperties": false}),
            "#/required: `x`",
        ),
        (json!(false), "schema is false"),
        (json!({"$ref": "#"}), "#"),
    ];
    for (schema, place) in cases {
        let text = refused(&grammars, &schema);
        assert!(text.contains(place), "{schema}: {text}");
    }
    let text = refused(&grammars, &json!({"pattern": "a{2}(?!b)"}));
    assert!(!text.contains("%json") && !text.contains('\n'), "{text}");
    assert!(refused(&grammars, &json!([])).contains("expected an object"));
    for schema in [
        json!(true),
        json!({"uniqueItems": false}),
        closed(json!({"type": "string", "required": ["gone"]})),
        closed(json!({"required": ["xa"], "patternProperties": {"^x": true}})),
        json!({"x-order": 1, "oneOf": [{"type": "null"}, {"type": "string"}]}),
    ] {
        grammars.matcher(&Constraint::json_schema(&schema).unwrap()).unwrap();
    }
}

#[test]
fn bombs_are_refused_or_compiled_in_bounded_time() {
    let grammars = Setup::new("tests/golden/tokenizer_qwen").grammars;
    let mut deep = json!({"type": "string"});
    (0..120).for_each(|_| deep = json!({"type": "array", "items": deep.take()}));
    let mut chain: serde_json::Map<String, Value> = (0..1300)
        .map(|i| {
            (format!("d{i}"), json!({"items": {"$ref": format!("#/$defs/d{}", i + 1)}, "type": "array"}))
        })
        .collect();
    chain.insert("d1300".to_owned(), json!(true));
    let many = |n: usize, f: &dyn Fn(usize) -> Value| Value::Array((0..n).map(f).collect());
    let object = |i: usize| json!({"properties": {format!("p{i}"): {"type": "integer"}}, "required": [format!("p{i}")]});
    let doubling = |i: usize| json!({"allOf": [{"$ref": format!("#/$defs/d{}", i + 1)}, {"$ref": format!("#/$defs/d{}", i + 1)}]});
    let mut doubled: serde_json::Map<String, Value> =
        (0..40).map(|i| (format!("d{i}"), doubling(i))).collect();
    doubled.insert("d40".to_owned(), json!({"anyOf": many(3, &object)}));
    let wide: serde_json::Map<String, Value> =
        (0..1500).map(|i| (format!("name{i}"), json!({"type": "string"}))).collect();
    let bombs = [
        deep,
        json!({"$ref": "#/$defs/d0", "$defs": chain}),
        json!({"$ref": "#/$defs/d0", "$defs": doubled}),
        json!({"allOf": many(12, &|_| json!({"anyOf": many(10, &object)}))}),
        json!({"properties": wide.clone(), "anyOf": many(1000, &|_| json!(true))}),
        json!({"type": "object", "properties": wide, "additionalProperties": false}),
        json!({"type": "string", "pattern": "(((a{1,100}){1,100}){1,100}){1,100}"}),
        json!({"type": "string", "pattern": "(a*)*(b|c+)*.{5000}.*x.{900}"}),
        json!({"type": "string", "minLength": 60_000, "maxLength": 65_000}),
        json!({"type": "array", "minItems": 4000, "maxItems": 4096, "items": {"type": "array", "minItems": 4000}}),
        json!({"enum": many(4000, &|i| json!(format!("value {i}")))}),
        json!({"enum": many(100_000, &|i| json!(i))}),
        json!({"type": "integer", "multipleOf": 7_919, "minimum": -9e15, "maximum": 9e15}),
        json!({"type": "number", "multipleOf": 0.000_000_1}),
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    ];
    for (i, bomb) in bombs.iter().enumerate() {
        let begin = Instant::now();
        let outcome = Constraint::json_schema(bomb).and_then(|constraint| {
            let mut matcher = grammars.matcher(&constraint)?;
            matcher.mask(&mut vec![0.0; 600])
        });
        let time = begin.elapsed();
        let text = outcome.map_or_else(|e| e.to_string(), |()| "compiled".to_owned());
        assert_eq!(text != "compiled", [2, 3, 4, 11, 14, 15, 16].contains(&i), "bomb {i}: {text}");
        assert!(time < Duration::from_secs(20), "bomb {i}: {time:?}, {text}");
        assert!(text.len() < 1000, "{text}");
    }
}

#[test]
fn what_is_required_is_there_though_nothing_describes_it() {
    let setup = Setup::new("examples/storyteller");
    let named = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b"]});
    let schema = Constraint::json_schema(&named).unwrap();
    for text in ["{\"b\": [1]}", "{\"a\": 1, \"b\": {\"c\": null}}"] {
        assert!(takes(&setup, &schema, text), "{text}");
        assert_valid(&named, text, "named");
    }
    for text in ["{\"a\": 1}", "{\"b\": 1, \"c\": 2}", "{}"] {
        assert!(!takes(&setup, &schema, text), "{text}");
    }
    let open = Constraint::json_schema(&json!({"type": "object", "required": ["b"]})).unwrap();
    assert!(takes(&setup, &open, "{\"b\": 1, \"c\": 2}") && !takes(&setup, &open, "{\"c\": 2}"));
}
