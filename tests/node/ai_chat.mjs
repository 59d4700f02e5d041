// A chat of the AI SDK whose page is loaded anew in the middle of an answer.
//
//   node ai_chat.mjs URL
//
// Prints what each of its three pages has got, and how often the model was asked, as one JSON value.

import { AbstractChat, DefaultChatTransport } from "ai";

const url = process.argv[2];

class Page extends AbstractChat {
  constructor(messages, onText = () => {}) {
    const state = {
      status: "ready",
      error: undefined,
      messages,
      pushMessage: (message) => state.messages.push(message),
      popMessage: () => state.messages.pop(),
      replaceMessage: (index, message) => {
        state.messages[index] = message;
        onText(textOf(message));
      },
      snapshot: (value) => structuredClone(value),
    };
    super({ id: "chat-1", state, transport: new DefaultChatTransport({ api: `${url}/api/chat` }) });
    this.shown = state;
  }

  get answers() {
    return this.shown.messages.filter(({ role }) => role === "assistant").map(textOf);
  }
}

function textOf({ parts }) {
  return parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

// The first page is left as soon as it shows three words: a browser cuts the connection, and says nothing.
const question = { id: "question-1", role: "user", parts: [{ type: "text", text: "?" }] };
const first = new Page([], (text) => text === "one two three " && first.stop());
await first.sendMessage(question);

// The second one knows the question only. When it has been told the three words, the model may go on.
let asked;
const second = new Page([question], (text) => {
  if (text === "one two three " && !asked) {
    asked = fetch(`${url}/release`, { method: "POST" }).then((response) => response.json());
  }
});
await second.resumeStream();

// For the third there's nothing to resume.
const third = new Page([...second.shown.messages]);
await third.resumeStream();

const pages = [first, second, third].map((page) => ({
  answers: page.answers,
  status: page.status,
  error: page.error?.message,
}));
process.stdout.write(`${JSON.stringify({ pages, asked: (await asked).length })}\n`);
