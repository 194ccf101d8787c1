// node format.cjs [--check] FILE…: the journal's Lua in the project's form, by StyLua. `make format` and `make check` run it.
'use strict';
const fs = require('fs');
const stylua = require('@johnnymorganz/stylua');

const args = process.argv.slice(2);
const check = args[0] === '--check';
let wrong = 0;
for (const file of check ? args.slice(1) : args) {
  const config = stylua.Config.new(); // (formatCode takes it over, so each file has its own)
  config.column_width = 160;
  config.indent_type = stylua.IndentType.Spaces;
  config.indent_width = 2;
  config.quote_style = stylua.QuoteStyle.AutoPreferSingle;
  config.call_parentheses = stylua.CallParenType.Input;
  config.collapse_simple_statement = stylua.CollapseSimpleStatement.Always;
  const text = fs.readFileSync(file, 'utf8');
  const formatted = stylua.formatCode(text, config, undefined, stylua.OutputVerification.Full);
  if (formatted === text) continue;
  if (!check) fs.writeFileSync(file, formatted);
  else {
    wrong = 1;
    const ours = text.split('\n');
    const at = formatted.split('\n').findIndex((line, n) => line !== ours[n]);
    console.log(`${file}:${at + 1}: would be ${JSON.stringify(formatted.split('\n')[at])}`);
  }
}
process.exitCode = wrong;
