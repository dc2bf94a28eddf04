// Files that are attached to a prompt.
//
// The metadata of the prompt's text part names them: {path, media_type, name} each. Their contents are added
// to the messages of each request, and opencode stores none of them: its database, events and exports would
// have megabytes for each row. An image is sent as it is; opencode itself scales down one with more than
// 2,000 pixels on a side. A text is sent as opencode sends an attached text.

import { readFileSync } from "node:fs"

export const FILES = "opencodeTasksFiles" // key of the metadata
const TEXT = "text/plain"
const MAX_TOKENS = 50_000 // of an image or of the images of a PDF file, as in domain/attached_file.py

function partsOf(file, { id, sessionID }, place) {
  const content = readFileSync(file.path)
  const base = { id: `prt_file${place}`, sessionID, messageID: id }
  if (file.media_type !== TEXT) {
    const url = `data:${file.media_type};base64,${content.toString("base64")}`
    return [{ ...base, type: "file", mime: file.media_type, filename: file.name, url }]
  }
  const call = `Called the Read tool with the following input: ${JSON.stringify({ filePath: file.name })}`
  return [call, content.toString("utf8")].map((text) => ({ ...base, type: "text", text, synthetic: true }))
}

// Adds the files to the messages of a session. Returns their number, the kinds of input that the model must
// take, and the most tokens that a count of their bytes may miss.
export function attachFiles(messages) {
  const kinds = new Set()
  let count = 0
  let tokens = 0
  for (const { info, parts } of messages) {
    const files = info.role === "user" ? parts.flatMap((part) => part.metadata?.[FILES] ?? []) : []
    files.forEach((file, place) => {
      parts.push(...partsOf(file, info, place))
      if (file.media_type === TEXT) return
      kinds.add(file.media_type === "application/pdf" ? "pdf" : "image")
      tokens += MAX_TOKENS
    })
    count += files.length
  }
  return { count, kinds: [...kinds], tokens }
}
