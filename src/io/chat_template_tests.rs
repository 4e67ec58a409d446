//! What templates in the wild rely on. Whole conversations are in `tests/tokenizer.rs`.

use super::*;
use serde_json::json;

fn render(source: &str, chat: &Chat<'_>) -> Result<String> {
    ChatTemplate::new(source)?.render(chat)
}

fn value(source: &str, x: Value) -> String {
    let kwargs = Map::from_iter([("x".to_owned(), x)]);
    render(source, &Chat { kwargs, ..Default::default() }).unwrap()
}

#[test]
fn tojson_is_json_dumps() {
    let x = json!({"b": [1, 2.0, 1e30, true, null], "a": "<é\"\\\n\u{1}/>", "e": [], "o": {}});
    assert_eq!(
        value("{{ x | tojson }}", x.clone()),
        "{\"b\": [1, 2.0, 1e+30, true, null], \"a\": \"<é\\\"\\\\\\n\\u0001/>\", \"e\": [], \"o\": {}}"
    );
    assert_eq!(
        value("{{ x.b[:2] | tojson(indent=2) }}{{ x.e | tojson(indent=2) }}", x.clone()),
        "[\n  1,\n  2.0\n][]"
    );
    assert_eq!(
        value(
            "{{ x | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}",
            json!({"b": "é🙂", "a": 1})
        ),
        "{\"a\":1,\"b\":\"\\u00e9\\ud83d\\ude42\"}"
    );
    assert_eq!(value("{{ x | tojson }}", json!(i64::MAX)), i64::MAX.to_string());
}

#[test]
fn values_print_as_in_python() {
    assert_eq!(
        value("{{ x }} {{ none }} {{ true }} {{ 1.0 }} {{ x|string }}", json!([1, "a", null])),
        "[1, 'a', None] None True 1.0 [1, 'a', None]"
    );
    assert_eq!(
        value("{{ missing }}|{{ missing is defined }}|{{ x.nothing is defined }}", json!({})),
        "|False|False"
    );
    assert_eq!(
        value(
            "{% for k, v in x.items() %}{{ k }}={{ v }};{% endfor %}{{ x.get('q', 'd') }}",
            json!({"items": 1, "a": 2})
        ),
        "items=1;a=2;d"
    );
    assert_eq!(
        value(
            "{{ x.split('b')[-1].strip().upper() }}{{ x[::-1] }}{{ x.title() }}{{ x.startswith('a') }}",
            json!("ab c")
        ),
        "Cc baAb CTrue"
    );
}

#[test]
fn strings_have_pythons_methods() {
    assert_eq!(
        value(
            "{{ x.rsplit(',', 1)[0] }} {{ x.rsplit(',') | length }} {{ x.partition(',')[2] }} {{ x.rpartition(';') }}",
            json!("a,b,c")
        ),
        "a,b 3 b,c ['', '', 'a,b,c']"
    );
    assert_eq!(value("{{ x.removeprefix('a').removesuffix('c').replace(',', '') }}", json!("a,b,c")), "b");
    assert_eq!(
        value(
            "{{ '' | default('r', boolean=true) }}{{ y | default('s') }}{{ '' | d('t') }}{{ y | default }}",
            json!(0)
        ),
        "rs"
    );
}

#[test]
fn jinja_extensions() {
    let loops = "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}";
    assert_eq!(value(loops, json!(0)), "013");
    assert_eq!(
        value(
            "a\n  {%- generation -%}  b {% endgeneration %}\nc{%generation%}d{%+ endgeneration +%}",
            json!(0)
        ),
        "ab cd"
    );
}

#[test]
fn errors_say_what_the_template_says() {
    let e = render("{{ raise_exception('roles must alternate') }}", &Chat::default()).unwrap_err();
    assert!(e.is_input() && e.to_string().contains("roles must alternate"), "{e}");
    assert!(render("{{ 'a' + nothing }}", &Chat::default()).is_err());
    assert!(ChatTemplate::new("{% if %}").unwrap_err().is_format());
    assert!(render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &Chat::default()).is_err());
}

#[test]
fn the_last_message_can_be_continued() {
    let messages = [json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b  "})];
    let chat = Chat { messages: &messages, continue_final_message: true, ..Default::default() };
    let kept = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    assert_eq!(render(kept, &chat).unwrap(), "[a][b  ");
    let trimmed = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
    assert_eq!(render(trimmed, &chat).unwrap(), "[a][b");
    assert!(render("nothing", &chat).unwrap_err().is_input());
    assert!(render(kept, &Chat { add_generation_prompt: true, ..chat.clone() }).is_err());
    assert!(render(kept, &Chat { messages: &[], ..chat }).is_err());
    let parts = [json!({"role": "assistant", "content": [{"type": "text", "text": "x"}, {"type": "image"}]})];
    let chat = Chat { messages: &parts, continue_final_message: true, ..Default::default() };
    assert_eq!(render("{{ messages[0].content[0].text }}!", &chat).unwrap(), "x");
}

#[test]
fn several_templates_and_tokens_come_from_the_folder() {
    let config = json!({
        "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null,
        "chat_template": [{"name": "default", "template": "{{ bos_token }}d{{ pad_token }}"}, {"name": "tool_use", "template": "t{{ eos_token }}"}],
    });
    let open = |extra: Vec<(&'static str, &str)>| {
        let mut files: Vec<_> = extra.into_iter().map(|(n, t)| (n, t.as_bytes().to_vec().into())).collect();
        files.push(("tokenizer_config.json", config.to_string().into_bytes().into()));
        ChatTemplate::from_files(&Files::memory(files)).unwrap().unwrap()
    };
    let both = open(vec![]);
    assert_eq!(both.render(&Chat::default()).unwrap(), "<s>d");
    assert_eq!(both.render(&Chat { tools: Some(&[json!({})]), ..Default::default() }).unwrap(), "t</s>");
    assert_eq!(
        open(vec![("chat_template.jinja", "file {{ eos_token }}")]).render(&Chat::default()).unwrap(),
        "file </s>"
    );
    let none = Files::memory([("tokenizer_config.json", b"{}".to_vec().into())]);
    assert!(ChatTemplate::from_files(&none).unwrap().is_none());
}

#[test]
fn messages_are_tidied() {
    let messages = [json!({"role": "assistant", "content": null, "thinking": "hm"})];
    let chat = Chat { messages: &messages, ..Default::default() };
    assert_eq!(
        render("{{ 'content' in messages[0] }} {{ messages[0].reasoning_content }}", &chat).unwrap(),
        "False hm"
    );
}

#[test]
fn a_template_that_goes_on_for_ever_is_stopped() {
    let endless =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a * b %}{% endfor %}{% endfor %}";
    let error = ChatTemplate::new(endless).unwrap().render(&Chat::default()).unwrap_err().to_string();
    assert!(error.contains("fuel"), "{error}");
}
