//! The part of JSON Schema that `docs/status.schema.json` uses. A keyword that is not known here is an error, so that nothing
//! in a schema goes unchecked.

use serde_json::Value;

/// What in `value` is not as `schema`, a part of `root`, says; each with its place.
pub(super) fn violations(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut refuse = |why: String| found.push(format!("{at}: {why}"));
    let mut inner = Vec::new();
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let part = rule.as_str().unwrap().strip_prefix('#').unwrap();
                inner.extend(violations(root, root.pointer(part).expect("a part of the schema"), value, at));
            }
            "anyOf" => {
                let fits = |one: &Value| violations(root, one, value, at).is_empty();
                if !rule.as_array().unwrap().iter().any(fits) {
                    refuse(format!("{value} fits none of {rule}"));
                }
            }
            "const" if rule != value => refuse(format!("{value} is not {rule}")),
            "enum" if !rule.as_array().unwrap().contains(value) => {
                refuse(format!("{value} is none of {rule}"))
            }
            "const" | "enum" => {}
            "type" => {
                let one = std::slice::from_ref(rule);
                let types = rule.as_array().map_or(one, Vec::as_slice);
                if !types.iter().any(|name| is_a(name.as_str().unwrap(), value)) {
                    refuse(format!("{value} is no {rule}"));
                }
            }
            "minimum" if value.as_f64() < rule.as_f64() => refuse(format!("{value} is below {rule}")),
            "maximum" if value.as_f64() > rule.as_f64() => refuse(format!("{value} is above {rule}")),
            "minimum" | "maximum" => {}
            "minItems" => {
                if value.as_array().is_some_and(|items| (items.len() as u64) < rule.as_u64().unwrap()) {
                    refuse(format!("fewer than {rule} items"));
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    inner.extend(violations(root, rule, item, &format!("{at}/{index}")));
                }
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    if value.get(name.as_str().unwrap()).is_none() {
                        refuse(format!("{name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, rule) in rule.as_object().unwrap() {
                    if let Some(member) = value.get(name) {
                        inner.extend(violations(root, rule, member, &format!("{at}/{name}")));
                    }
                }
            }
            "additionalProperties" => {
                let known =
                    |name: &String| schema.get("properties").is_some_and(|known| known.get(name).is_some());
                let more = value.as_object().into_iter().flatten().filter(|(name, _)| !known(name));
                for (name, member) in more {
                    if rule == &Value::Bool(false) {
                        refuse(format!("{name:?} is not in the schema"));
                    } else {
                        inner.extend(violations(root, rule, member, &format!("{at}/{name}")));
                    }
                }
            }
            other => panic!("the keyword {other} is not checked here"),
        }
    }
    found.extend(inner);
    found
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} is not checked here"),
    }
}

#[test]
fn each_keyword_finds_what_does_not_fit() {
    use serde_json::json;

    let root = json!({ "$defs": { "small": { "type": "integer", "minimum": 0, "maximum": 9 } } });
    for (schema, good, bad) in [
        (json!({ "$ref": "#/$defs/small" }), json!(9), json!(10)),
        (json!({ "$ref": "#/$defs/small" }), json!(0), json!(-1)),
        (json!({ "type": ["string", "null"] }), json!(null), json!(1)),
        (json!({ "type": "integer" }), json!(1), json!(1.5)),
        (json!({ "const": 1 }), json!(1), json!(2)),
        (json!({ "enum": ["a", "b"] }), json!("b"), json!("c")),
        (json!({ "anyOf": [{ "type": "null" }, { "const": 1 }] }), json!(1), json!(2)),
        (json!({ "items": { "type": "string" } }), json!(["a"]), json!(["a", 1])),
        (json!({ "minItems": 1 }), json!([1]), json!([])),
        (json!({ "required": ["a"] }), json!({ "a": 1 }), json!({ "b": 1 })),
        (json!({ "properties": { "a": { "const": 1 } } }), json!({ "a": 1 }), json!({ "a": 2 })),
        (
            json!({ "properties": { "a": {} }, "additionalProperties": false }),
            json!({ "a": 2 }),
            json!({ "b": 2 }),
        ),
        (json!({ "additionalProperties": { "type": "string" } }), json!({ "a": "b" }), json!({ "a": 1 })),
    ] {
        assert_eq!(violations(&root, &schema, &good, ""), [""; 0], "{schema}");
        assert_eq!(violations(&root, &schema, &bad, "").len(), 1, "{schema}");
    }
}
