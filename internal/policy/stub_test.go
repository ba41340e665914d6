package policy

var documentRules []rule
var vocabularyRules []rule
var configurationRules []rule
var manualRules []rule
