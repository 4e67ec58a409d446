//! [`Output`]: the items of a response, and the events that tell of them as they grow.

use super::parts::Part;
use serde_json::{Value, json};

/// The name of an event, and what it says besides.
pub(super) type Event = (&'static str, Value);

/// What an item is, as far as its text goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    Call { name: String },
}

#[derive(Clone, Debug)]
struct Item {
    kind: Kind,
    /// What names it among all items, without the prefix that says its kind.
    id: String,
    text: String,
    /// Probabilities of its tokens, if they are wanted.
    logprobs: Vec<Value>,
    status: &'static str,
}

impl Item {
    fn id(&self) -> String {
        let prefix = match self.kind {
            Kind::Reasoning => "rs",
            Kind::Message => "msg",
            Kind::Call { .. } => "fc",
        };
        format!("{prefix}_{}", self.id)
    }

    /// Its part, for kinds that have one.
    fn part(&self) -> Option<Value> {
        match self.kind {
            Kind::Reasoning => Some(json!({ "type": "reasoning_text", "text": self.text })),
            Kind::Message => Some(json!({ "type": "output_text", "text": self.text, "annotations": [],
                    "logprobs": self.logprobs })),
            Kind::Call { .. } => None,
        }
    }

    /// As it is now; its part is there once it has begun.
    fn value(&self, begun: bool) -> Value {
        let content: Vec<Value> = self.part().filter(|_| begun).into_iter().collect();
        let id = self.id();
        match &self.kind {
            Kind::Reasoning => {
                json!({ "id": id, "type": "reasoning", "summary": [], "content": content, "status": self.status })
            }
            Kind::Message => json!({ "id": id, "type": "message", "role": "assistant", "status": self.status,
                "content": content }),
            Kind::Call { name } => json!({ "id": id, "type": "function_call", "status": self.status,
                "call_id": format!("call_{}", self.id), "name": name, "arguments": self.text }),
        }
    }
}

/// The output so far; the last item may grow.
#[derive(Clone, Debug)]
pub(super) struct Output {
    id: String,
    items: Vec<Item>,
    /// Probabilities of tokens whose text is held back.
    logprobs: Vec<Value>,
}

impl Output {
    /// `id` is unlike those of all other responses.
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), items: Vec::new(), logprobs: Vec::new() }
    }

    pub(super) fn items(&self) -> Vec<Value> {
        self.items.iter().map(|item| item.value(true)).collect()
    }

    /// More tokens, whose text the next part begins with.
    pub(super) fn spoken(&mut self, logprobs: impl Iterator<Item = Value>) {
        self.logprobs.extend(logprobs);
    }

    pub(super) fn add(&mut self, part: Part, events: &mut Vec<Event>) {
        let mut logprobs = std::mem::take(&mut self.logprobs);
        let (kind, text) = match part {
            Part::Reasoning(text) => (Some(Kind::Reasoning), text),
            Part::Content(text) => (Some(Kind::Message), text),
            Part::Call { name, .. } => {
                self.begin(Kind::Call { name }, events);
                return;
            }
            Part::Arguments { delta, .. } => (None, delta),
        };
        if let Some(kind) = kind.filter(|kind| self.items.last().is_none_or(|item| item.kind != *kind)) {
            self.begin(kind, events);
        }
        let index = self.items.len().saturating_sub(1);
        let Some(item) = self.items.last_mut() else { return };
        let first = item.text.is_empty();
        item.text += &text;
        let mut value = json!({ "item_id": item.id(), "output_index": index, "delta": text });
        let name = match item.kind {
            Kind::Reasoning => "response.reasoning_text.delta",
            Kind::Message => {
                if first {
                    keep_last(&mut logprobs, text.len());
                }
                value["logprobs"] = json!(logprobs);
                item.logprobs.extend(logprobs);
                "response.output_text.delta"
            }
            Kind::Call { .. } => "response.function_call_arguments.delta",
        };
        if item.part().is_some() {
            value["content_index"] = 0.into();
        }
        events.push((name, value));
    }

    fn begin(&mut self, kind: Kind, events: &mut Vec<Event>) {
        self.finish("completed", events);
        let index = self.items.len();
        let id = format!("{}{index:02}", self.id);
        let item = Item { kind, id, text: String::new(), logprobs: Vec::new(), status: "in_progress" };
        events.push((
            "response.output_item.added",
            json!({ "output_index": index, "item": item.value(false) }),
        ));
        if let Some(part) = item.part() {
            events.push(("response.content_part.added", place(&item, index, "part", part)));
        }
        self.items.push(item);
    }

    /// The last item is complete, or as much of it as there will be.
    fn finish(&mut self, status: &'static str, events: &mut Vec<Event>) {
        let index = self.items.len().saturating_sub(1);
        let Some(item) = self.items.last_mut() else { return };
        item.status = status;
        let text = Value::from(item.text.as_str());
        match &item.kind {
            Kind::Reasoning => {
                events.push(("response.reasoning_text.done", place(item, index, "text", text)))
            }
            Kind::Message => {
                let mut value = place(item, index, "text", text);
                value["logprobs"] = json!(item.logprobs);
                events.push(("response.output_text.done", value));
            }
            Kind::Call { name } => events.push((
                "response.function_call_arguments.done",
                json!({ "item_id": item.id(), "output_index": index, "name": name, "arguments": text }),
            )),
        }
        if let Some(part) = item.part() {
            events.push(("response.content_part.done", place(item, index, "part", part)));
        }
        events
            .push(("response.output_item.done", json!({ "output_index": index, "item": item.value(true) })));
    }

    /// The answer has ended; `whole`: not because it was cut off. One that says nothing says so in a message.
    pub(super) fn end(&mut self, whole: bool, events: &mut Vec<Event>) {
        if self.items.is_empty() {
            self.begin(Kind::Message, events);
        }
        self.finish(if whole { "completed" } else { "incomplete" }, events);
    }
}

/// Drops the tokens before so many bytes of text: they ended the thoughts.
fn keep_last(logprobs: &mut Vec<Value>, bytes: usize) {
    let mut length = 0;
    let fits = |token: &&Value| {
        length += token["token"].as_str().map_or(0, str::len);
        length <= bytes
    };
    let kept = logprobs.iter().rev().take_while(fits).count();
    logprobs.drain(..logprobs.len() - kept);
}

fn place(item: &Item, index: usize, key: &str, value: Value) -> Value {
    let mut place = json!({ "item_id": item.id(), "output_index": index, "content_index": 0 });
    place[key] = value;
    place
}
