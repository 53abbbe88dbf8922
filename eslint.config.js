const browser = Object.fromEntries(
  [
    "document",
    "Blob",
    "URL",
    "TextEncoder",
    "ResizeObserver",
    "requestAnimationFrame",
    "cancelAnimationFrame",
    "getComputedStyle",
    "DOMMatrix",
    "URLSearchParams",
    "CSS",
    "setTimeout",
    "setInterval",
    "clearInterval",
    "globalThis",
    "Image",
    "createImageBitmap",
    "fetch",
    "console",
  ].map((name) => [name, "readonly"]),
);

export default [
  {
    files: ["web/**/*.js", "tests/js/**/*.js"],
    languageOptions: { ecmaVersion: 2023, sourceType: "module", globals: browser },
    rules: {
      "no-undef": "error",
      "no-unused-vars": ["error", { varsIgnorePattern: "^_", argsIgnorePattern: "^_" }],
      "prefer-const": "error",
      "no-var": "error",
      eqeqeq: "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      // Nothing may become HTML, nothing outside our element may be touched.
      "no-restricted-properties": [
        "error",
        { property: "innerHTML" },
        { property: "outerHTML" },
        { property: "insertAdjacentHTML" },
        { object: "document", property: "addEventListener" },
        { object: "document", property: "write" },
      ],
      "no-restricted-globals": ["error", "window"],
    },
  },
  { files: ["tests/js/**/*.js"], languageOptions: { globals: { process: "readonly", Buffer: "readonly" } } },
];
