// Ghost text of `codeseal proxy`: what llama.vscode does, in a few lines. It sends llama.cpp's request for a hole, and ends it when
// VS Code cancels it, which is at the next key.
const vscode = require("vscode");

async function complete(document, position, _context, token) {
  const settings = vscode.workspace.getConfiguration("llama-vscode");
  const [start, end] = [new vscode.Position(0, 0), document.lineAt(document.lineCount - 1).range.end];
  const line = new vscode.Position(position.line, 0);
  const text = (from, to) => document.getText(new vscode.Range(from, to));
  const controller = new AbortController();
  token.onCancellationRequested(() => controller.abort());
  try {
    const answer = await fetch(`${settings.get("endpoint")}/infill`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${settings.get("api_key") || "none"}` },
      body: JSON.stringify({
        input_prefix: text(start, line), prompt: text(line, position), input_suffix: text(position, end),
        n_predict: 32, temperature: 0, stream: false,
      }),
      signal: controller.signal,
    });
    const { content } = await answer.json();
    return content && content.trim() ? [new vscode.InlineCompletionItem(content.trimEnd())] : [];
  } catch {
    // The inline API shows no errors; the status page and `codeseal proxy status` do.
    return [];
  }
}

exports.activate = (context) => {
  const everywhere = { pattern: "**" };
  const item = vscode.window.createStatusBarItem(vscode.StatusBarAlignment.Right);
  item.text = "codeseal";
  item.show();
  context.subscriptions.push(
    item,
    vscode.languages.registerInlineCompletionItemProvider(everywhere, { provideInlineCompletionItems: complete }));
};
