// Repeats an interrupted request as it was.
//
// A session is continued by a prompt, because opencode sends nothing without one. The model need not see it: the
// prompt is left out of the request if the conversation before it ends with a prompt or with the result of a
// tool, which the model has not answered yet. A message of the model that was cut before its first tool call is
// left out too. After a complete answer the prompt stays.

const CONTINUATION = process.env.OPENCODE_TASKS_CONTINUATION

const isContinuation = ({ info, parts }) =>
  info.role === "user" && parts.some((part) => part.type === "text" && part.text === CONTINUATION)
const isAnswer = ({ info }) => info.role === "assistant"
const hasTool = ({ parts }) => parts.some((part) => part.type === "tool")
// Without a step that ended, a message was cut or refused.
const isCut = (message) => isAnswer(message) && !hasTool(message) && !message.parts.some((part) => part.type === "step-finish")

// Changes a list of opencode's messages, oldest first. Those that are left out stay in the list, without parts:
// opencode needs the last prompt there.
export function repeatInterrupted(messages) {
  if (!CONTINUATION) return
  for (let at = messages.length - 1; at > 0; at -= 1) {
    if (!isContinuation(messages[at])) continue
    let first = at
    while (first > 0 && isCut(messages[first - 1])) first -= 1
    const before = messages[first - 1]
    if (!before || (isAnswer(before) && !hasTool(before))) continue
    for (const message of messages.slice(first, at + 1)) message.parts = []
  }
}
